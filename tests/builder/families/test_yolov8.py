"""YOLOv8's decoded output and raw heads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builder.families.harness import Tail, assert_decodes
from tests.builder.test_decoders import sigmoid
from tests.builder.tiny_networks import SIDE_PX

NUM_CLASSES, REG_MAX, STRIDES = 3, 16, (8, 16, 32)
DECODED = {"output0": [4 + NUM_CLASSES, 84]}
LABELS = {"labels": ["a", "b", "c"]}


def decoded_formula(heads):
    cx, cy, w, h = heads["output0"][:4]
    boxes = np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 1)
    return boxes, heads["output0"][4:].T


def raw_heads(reg_max):
    shapes = {}
    for stride in STRIDES:
        side = SIDE_PX // stride
        shapes[f"box_{stride}"] = [4 * reg_max, side, side]
        shapes[f"class_{stride}"] = [NUM_CLASSES, side, side]
    return shapes


def joined(reg_max) -> Tail:
    """As the published head joins them: torch.cat((box, class), 1) per stride."""
    tail = Tail()
    for stride in STRIDES:
        side = SIDE_PX // stride
        tail.node("Concat", [f"box_{stride}", f"class_{stride}"], f"map_{stride}", axis=1)
        tail.output(f"map_{stride}", [4 * reg_max + NUM_CLASSES, side, side])
    return tail


def expectation(logits):
    weights = np.exp(logits - logits.max())
    return (weights / weights.sum() * np.arange(len(logits))).sum()


def raw_formula(heads):
    boxes, scores = [], []
    for stride in STRIDES:
        box, classes = heads[f"box_{stride}"], heads[f"class_{stride}"]
        side = box.shape[1]
        for y in range(side):
            for x in range(side):
                left, top, right, bottom = (
                    expectation(part) * stride for part in np.split(box[:, y, x].astype(np.float64), 4)
                )
                cx, cy = (x + 0.5) * stride, (y + 0.5) * stride
                boxes.append((cx - left, cy - top, cx + right, cy + bottom))
                scores.append(sigmoid(classes[:, y, x]))
    return np.array(boxes), np.array(scores)


@pytest.mark.parametrize("batch", [1, 5])
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_decoded(tmp_path_factory, batch, seed) -> None:
    folder = tmp_path_factory.mktemp("net")
    assert_decodes(folder, DECODED, decoded_formula, family="yolov8", batch=batch, seed=seed)


@pytest.mark.parametrize("reg_max", [REG_MAX, 8])
@pytest.mark.parametrize("batch", [1, 5])
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_raw_heads(tmp_path_factory, reg_max, batch, seed) -> None:
    assert_decodes(
        tmp_path_factory.mktemp("net"),
        raw_heads(reg_max),
        raw_formula,
        family="yolov8",
        batch=batch,
        seed=seed,
        tail=joined(reg_max),
    )
