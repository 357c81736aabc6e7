"""Priors of the card equal the generators that published detectors were trained with."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from detserve_builder.families.ssd.priors import PriorGrid, PriorMap

SSD300 = {
    "maps": (38, 19, 10, 5, 3, 1),
    "scales": (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),
    "ratios": ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)),
    "steps": (8, 16, 32, 64, 100, 300),
}
SSDLITE320 = {
    "maps": (20, 10, 5, 3, 2, 1),
    "scales": (0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0),
    "ratios": ((2, 3),) * 6,
    "steps": None,
}


def default_boxes(side_px, maps, scales, ratios, steps):
    """torchvision, models/detection/anchor_utils.py, DefaultBoxGenerator with its default clip=True."""
    rows = []
    for k, cells in enumerate(maps):
        pairs = [(scales[k], scales[k]), (np.sqrt(scales[k] * scales[k + 1]),) * 2]
        for ratio in ratios[k]:
            wide, high = scales[k] * np.sqrt(ratio), scales[k] / np.sqrt(ratio)
            pairs += [(wide, high), (high, wide)]
        per_side = side_px / steps[k] if steps else cells
        for y in range(cells):
            for x in range(cells):
                for w, h in pairs:
                    rows.append(((x + 0.5) / per_side, (y + 0.5) / per_side, min(w, 1), min(h, 1)))
    return np.array(rows)


def as_grid(side_px, maps, scales, ratios, steps) -> PriorGrid:
    return PriorGrid(
        clip_sizes=True,
        maps=[
            PriorMap(
                cells_wh=(cells, cells),
                step_px=steps[k] if steps else None,
                min_sizes_px=[scales[k] * side_px],
                max_sizes_px=[scales[k + 1] * side_px],
                aspect_ratios=list(ratios[k]),
            )
            for k, cells in enumerate(maps)
        ],
    )


@pytest.mark.parametrize(
    ("side_px", "config", "count"), [(300, SSD300, 8732), (320, SSDLITE320, 3234)], ids=["ssd", "ssdlite"]
)
def test_torchvisions_detectors(side_px, config, count) -> None:
    boxes = as_grid(side_px, **config).boxes((side_px, side_px))
    assert boxes.shape == (count, 4)
    np.testing.assert_allclose(boxes, default_boxes(side_px, **config), atol=1e-6)


maps = st.lists(
    st.tuples(
        st.integers(1, 6),
        st.floats(0.05, 1.2),
        st.lists(st.floats(1.1, 4), max_size=3),
        st.integers(4, 80),
    ),
    min_size=1,
    max_size=3,
)


@given(side_px=st.integers(64, 512), described=maps, with_steps=st.booleans())
def test_any_default_box_generator(side_px, described, with_steps) -> None:
    cells, scales, ratios, steps = zip(*described, strict=True)
    config = (cells, (*scales, 1.0), ratios, steps if with_steps else None)
    boxes = as_grid(side_px, *config).boxes((side_px, side_px))
    np.testing.assert_allclose(boxes, default_boxes(side_px, *config), rtol=1e-5, atol=1e-6)


def test_a_picture_that_is_no_square() -> None:
    one_map = PriorMap(cells_wh=(2, 1), min_sizes_px=[16, 32])
    boxes = PriorGrid(maps=[one_map]).boxes((64, 32))
    expected = [[0.25, 0.5, 0.25, 0.5], [0.25, 0.5, 0.5, 1], [0.75, 0.5, 0.25, 0.5], [0.75, 0.5, 0.5, 1]]
    np.testing.assert_allclose(boxes, expected)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "give either sizes_wh_px or min_sizes_px"),
        ({"sizes_wh_px": [[1, 1]], "min_sizes_px": [1]}, "give either sizes_wh_px or min_sizes_px"),
        ({"sizes_wh_px": [[1, 1]], "aspect_ratios": [2]}, "go with min_sizes_px"),
        ({"min_sizes_px": [1, 2], "max_sizes_px": [3]}, "2 min_sizes_px but 1 max_sizes_px"),
    ],
)
def test_a_map_described_twice_or_not_at_all(fields, words) -> None:
    with pytest.raises(ValidationError, match=words):
        PriorMap.model_validate({"cells_wh": [1, 1], **fields})
