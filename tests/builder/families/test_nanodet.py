"""NanoDet's joined output and pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builder.families.harness import Tail, assert_decodes
from tests.builder.families.test_decoders import sigmoid
from tests.builder.tiny_networks import SIDE_PX

NUM_CLASSES, BINS = 5, 8
PLUS, THREE = (8, 16, 32, 64), (8, 16, 32)


def expectation(logits):
    weights = np.exp(logits - logits.max())
    return (weights / weights.sum() * np.arange(len(logits))).sum()


def decode(rows, strides, cell_offset):
    """NanoDetPlusHead.get_bboxes, cell by cell, on rows of logits."""
    boxes, index = [], 0
    for stride in strides:
        side = SIDE_PX // stride
        for y in range(side):
            for x in range(side):
                parts = np.split(rows[index, NUM_CLASSES:].astype(np.float64), 4)
                left, top, right, bottom = (expectation(part) * stride for part in parts)
                cx, cy = (x + cell_offset) * stride, (y + cell_offset) * stride
                boxes.append((cx - left, cy - top, cx + right, cy + bottom))
                index += 1
    return np.array(boxes), sigmoid(rows[:, :NUM_CLASSES])


def plus_formula(heads):
    return decode(np.concatenate([heads["scores"], heads["boxes"]], 1), PLUS, 0)


def joined(*, activated) -> Tail:
    tail = Tail()
    scores = tail.node("Sigmoid", ["scores"], "activated") if activated else "scores"
    tail.output(tail.node("Concat", [scores, "boxes"], "output", axis=2), [85, NUM_CLASSES + 4 * BINS])
    return tail


@pytest.mark.parametrize("activated", [True, False])
@pytest.mark.parametrize("batch", [1, 5])
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_nanodet_plus(tmp_path_factory, activated, batch, seed) -> None:
    assert_decodes(
        tmp_path_factory.mktemp("net"),
        {"scores": [85, NUM_CLASSES], "boxes": [85, 4 * BINS]},
        plus_formula,
        family="nanodet",
        batch=batch,
        seed=seed,
        tail=joined(activated=activated),
    )


def pairs(rank, strides):
    shapes = {}
    for stride in strides:
        side = SIDE_PX // stride
        for name, channels in (("cls", NUM_CLASSES), ("dis", 4 * BINS)):
            shape = [channels, side, side] if rank == 4 else [side * side, channels]
            shapes[f"{name}_pred_stride_{stride}"] = shape
    return shapes


def sigmoid_of_scores(heads) -> Tail:
    tail = Tail()
    for name, shape in heads.items():
        if name.startswith("cls"):
            tail.node("Sigmoid", [name], f"{name}_activated")
            name = f"{name}_activated"
        tail.output(name, shape)
    return tail


@pytest.mark.parametrize("strides", [THREE, PLUS])
@pytest.mark.parametrize("rank", [3, 4])
@pytest.mark.parametrize("activated", [True, False])
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_pairs(tmp_path_factory, strides, rank, activated, seed) -> None:
    def formula(heads):
        rows = []
        for stride in strides:
            pair = [heads[f"{name}_pred_stride_{stride}"] for name in ("cls", "dis")]
            rows.append(np.concatenate([p if rank == 3 else p.reshape(len(p), -1).T for p in pair], axis=1))
        return decode(np.concatenate(rows), strides, 0.5)

    heads = pairs(rank, strides)
    assert_decodes(
        tmp_path_factory.mktemp("net"),
        heads,
        formula,
        family="nanodet",
        batch=3,
        seed=seed,
        tail=sigmoid_of_scores(heads) if activated else None,
    )


def three_levels_joined() -> Tail:
    """NanoDet's export of three levels: per level cat(scores, distributions), then flat, then joined."""
    tail = Tail()
    for stride in THREE:
        cells = (SIDE_PX // stride) ** 2
        names = [f"{name}_pred_stride_{stride}" for name in ("cls", "dis")]
        tail.node("Sigmoid", [names[0]], f"activated_{stride}")
        tail.node("Concat", [f"activated_{stride}", names[1]], f"level_{stride}", axis=1)
        shape = tail.constant(f"flat_shape_{stride}", [1, NUM_CLASSES + 4 * BINS, cells])
        tail.node("Reshape", [f"level_{stride}", shape], f"flat_{stride}")
    tail.node("Concat", [f"flat_{stride}" for stride in THREE], "levels", axis=2)
    tail.output(tail.node("Transpose", ["levels"], "output", perm=[0, 2, 1]), [84, NUM_CLASSES + 4 * BINS])
    return tail


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_three_levels_in_one_output_are_told_from_yolox(tmp_path_factory, seed) -> None:
    def formula(heads):
        levels = []
        for stride in THREE:
            pair = [heads[f"{name}_pred_stride_{stride}"] for name in ("cls", "dis")]
            levels.append(np.concatenate([part.reshape(len(part), -1) for part in pair]))
        return decode(np.concatenate(levels, axis=1).T, THREE, 0.5)

    assert_decodes(
        tmp_path_factory.mktemp("net"),
        pairs(4, THREE),
        formula,
        family="nanodet",
        batch=3,
        seed=seed,
        tail=three_levels_joined(),
    )
