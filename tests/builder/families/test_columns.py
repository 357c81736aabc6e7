"""Columns of an output, followed back to what made them."""

from __future__ import annotations

from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
import pytest

from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.families.columns import box_and_classes, columns_of
from tests.builder.families.harness import Tail, save_network

HEADS = {"box": [4, 6, 6], "class": [3, 6, 6], "mask": [5, 6, 6]}


def joined(tail: Tail) -> str:
    score = tail.node("Sigmoid", ["class"], "score")
    return tail.node("Concat", ["box", score, "mask"], "joined", axis=1)


def plain(tail: Tail) -> str:
    return joined(tail)


def flattened(tail: Tail) -> str:
    shape = tail.constant("flattened_shape", [1, 12, 36])
    return tail.node("Reshape", [joined(tail), shape], "flattened")


def turned(tail: Tail) -> str:
    return tail.node("Transpose", [flattened(tail)], "turned", perm=[0, 2, 1])


def cut_and_joined(tail: Tail) -> str:
    sizes = tail.constant("sizes", [2, 10])
    tail.node("Split", [turned(tail), sizes], "first", "rest", axis=2)
    return tail.node("Concat", ["first", "rest"], "again", axis=2)


def sliced(tail: Tail) -> str:
    whole = flattened(tail)
    ends = [tail.constant(f"end_{end}", [end]) for end in (0, 7, 12)]
    axis = tail.constant("axis", [1])
    parts = [tail.node("Slice", [whole, start, end, axis], f"slice_{end}") for start, end in pairwise(ends)]
    return tail.node("Concat", parts, "slices", axis=1)


def quantised(tail: Tail) -> str:
    scale, zero = tail.constant("scale", np.float32(0.1)), tail.constant("zero", np.uint8(128))
    small = tail.node("QuantizeLinear", [turned(tail), scale, zero], "small")
    return tail.node("DequantizeLinear", [small, scale, zero], "large")


def over_anchors(tail: Tail) -> str:
    whole = flattened(tail)
    return tail.node("Concat", [whole, whole], "twice", axis=2)


def squeezed(tail: Tail) -> str:
    axis = tail.constant("added", [1])
    wide = tail.node("Unsqueeze", [flattened(tail), axis], "wide")
    return tail.node("Squeeze", [wide, axis], "narrow")


def mixed(tail: Tail) -> str:
    return tail.node("Reshape", [flattened(tail), tail.constant("mixed_shape", [1, 36, 12])], "mixed")


FORMS = {
    plain: ([12, 6, 6], 1),
    flattened: ([12, 36], 1),
    turned: ([36, 12], 2),
    cut_and_joined: ([36, 12], 2),
    sliced: ([12, 36], 1),
    quantised: ([36, 12], 2),
    over_anchors: ([12, 72], 1),
    squeezed: ([12, 36], 1),
}


def columns(folder: Path, form, shape, axis):
    tail = Tail()
    tail.output(form(tail), shape)
    path, _ = save_network(folder, HEADS, tail)
    checkpoint = load_checkpoint(str(path))
    return columns_of(checkpoint, checkpoint.outputs[0], axis)


@pytest.mark.parametrize(("form", "place"), FORMS.items(), ids=[form.__name__ for form in FORMS])
def test_columns_are_followed_through(tmp_path, form, place) -> None:
    found = columns(tmp_path, form, *place)
    parts = [(tensor, len(list(group))) for tensor, group in groupby(column.tensor for column in found)]
    assert [count for _, count in parts] == [4, 3, 5]
    assert [column.is_sigmoid for column in found] == [False] * 4 + [True] * 3 + [False] * 5
    assert box_and_classes(found) == (3, 5)


def test_what_mixes_columns_ends_the_way_back(tmp_path) -> None:
    found = columns(tmp_path, mixed, [36, 12], 2)
    assert {column.op for column in found} == {"Reshape"}
    assert box_and_classes(found) is None
