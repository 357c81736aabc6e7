"""YOLOv10's rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builder.families.harness import assert_decodes
from tests.builder.tiny_networks import SIDE_PX

HEADS = {"output0": [30, 6]}
LABELS = {"labels": ["a", "b", "c"]}


def corners_formula(heads):
    rows = heads["output0"]
    return rows[:, :4], rows[:, 4], np.trunc(rows[:, 5])


def shares_formula(heads):
    rows = heads["output0"]
    cx, cy, w, h = rows[:, :4].T * SIDE_PX
    boxes = np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 1)
    return boxes, rows[:, 4], np.trunc(rows[:, 5])


@pytest.mark.parametrize(
    ("boxes", "formula"), [("xyxy_px", corners_formula), ("cxcywh_share", shares_formula)]
)
@pytest.mark.parametrize("batch", [1, 5])
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_rows(tmp_path_factory, boxes, formula, batch, seed) -> None:
    assert_decodes(
        tmp_path_factory.mktemp("net"),
        HEADS,
        formula,
        family="end_to_end",
        card={**LABELS, "head": {"boxes": boxes}},
        batch=batch,
        seed=seed,
    )
