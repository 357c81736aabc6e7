"""YOLOv5's decoded output, with masks behind, and raw maps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.infer_card import families_that_fit
from tests.builder.families.harness import Tail, assert_decodes, save_network
from tests.builder.families.test_decoders import sigmoid
from tests.builder.tiny_networks import SIDE_PX

NUM_CLASSES = 3
FIELDS = 5 + NUM_CLASSES
ANCHORS = {
    8: [(10, 13), (16, 30), (33, 23)],
    16: [(30, 61), (62, 45), (59, 119)],
    32: [(116, 90), (156, 198), (373, 326)],
}
CARD = {"head": {"anchors_wh_px": list(ANCHORS.values())}}
MAPS_5D = {f"map_{stride}": [3, SIDE_PX // stride, SIDE_PX // stride, FIELDS] for stride in ANCHORS}
MAPS_4D = {f"map_{stride}": [3 * FIELDS, SIDE_PX // stride, SIDE_PX // stride] for stride in ANCHORS}


def decoded_formula(heads):
    cx, cy, w, h, objectness = heads["output"][:, :5].T
    boxes = np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 1)
    return boxes, heads["output"][:, 5:] * objectness[:, None]


def raw_formula(heads):
    boxes, scores = [], []
    for stride, anchors in ANCHORS.items():
        maps, side = heads[f"map_{stride}"], SIDE_PX // stride
        if maps.ndim == 3:
            maps = maps.reshape(3, FIELDS, side, side).transpose(0, 2, 3, 1)
        for anchor, (anchor_w, anchor_h) in enumerate(anchors):
            for y in range(side):
                for x in range(side):
                    t = sigmoid(maps[anchor, y, x].astype(np.float64))
                    cx, cy = (2 * t[0] - 0.5 + x) * stride, (2 * t[1] - 0.5 + y) * stride
                    w, h = (2 * t[2]) ** 2 * anchor_w, (2 * t[3]) ** 2 * anchor_h
                    boxes.append((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2))
                    scores.append(t[4] * t[5:])
    return np.array(boxes), np.array(scores)


def with_sigmoid() -> Tail:
    tail = Tail()
    for name, shape in MAPS_5D.items():
        tail.output(tail.node("Sigmoid", [name], f"{name}_activated"), shape)
    return tail


@pytest.mark.parametrize("batch", [1, 5])
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_decoded(tmp_path_factory, batch, seed) -> None:
    folder, heads = tmp_path_factory.mktemp("net"), {"output": [252, FIELDS]}
    assert_decodes(folder, heads, decoded_formula, family="yolov5", batch=batch, seed=seed)


@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_raw_maps_beside_the_decoded_output_are_left_aside(tmp_path_factory, seed) -> None:
    folder, heads = tmp_path_factory.mktemp("net"), {"output": [252, FIELDS], **MAPS_5D}
    assert_decodes(folder, heads, decoded_formula, family="yolov5", batch=2, seed=seed)


@pytest.mark.parametrize("heads", [MAPS_5D, MAPS_4D], ids=["5-D", "4-D"])
@pytest.mark.parametrize("batch", [1, 5])
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_raw(tmp_path_factory, heads, batch, seed) -> None:
    assert_decodes(
        tmp_path_factory.mktemp("net"),
        heads,
        raw_formula,
        family="yolov5",
        named=heads is MAPS_4D,
        card=CARD,
        batch=batch,
        seed=seed,
    )


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_raw_with_the_sigmoid_in_the_graph(tmp_path_factory, seed) -> None:
    assert_decodes(
        tmp_path_factory.mktemp("net"),
        MAPS_5D,
        raw_formula,
        family="yolov5",
        card=CARD,
        batch=3,
        seed=seed,
        tail=with_sigmoid(),
    )


def with_masks() -> Tail:
    """YOLOv5's segment/export: scores after a sigmoid, then mask coefficients; prototypes beside."""
    tail = Tail()
    scores = tail.node("Sigmoid", ["score"], "activated")
    joined = tail.node("Concat", ["box", scores, "mask"], "output0", axis=2)
    tail.output(joined, [252, FIELDS + 5])
    tail.output("prototypes", [5, 16, 16])
    return tail


def with_masks_formula(heads):
    scores = sigmoid(heads["score"])
    return decoded_formula({"output": np.concatenate([heads["box"], scores], 1)})


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_masks_are_no_classes(tmp_path_factory, seed) -> None:
    heads = {"box": [252, 4], "score": [252, 1 + NUM_CLASSES], "mask": [252, 5], "prototypes": [5, 16, 16]}
    folder = tmp_path_factory.mktemp("net")
    assert_decodes(folder, heads, with_masks_formula, family="yolov5", batch=2, seed=seed, tail=with_masks())


def test_key_points_before_the_classes_are_not_read_as_classes(tmp_path) -> None:
    """YOLOv5-face: x, y, w, h, objectness, ten coordinates of landmarks, class."""
    tail = Tail()
    parts = [tail.node("Sigmoid", [name], f"{name}_score") for name in ("object", "class")]
    tail.output(tail.node("Concat", ["box", parts[0], "marks", parts[1]], "output0", axis=2), [252, 16])
    heads = {"box": [252, 4], "object": [252, 1], "marks": [252, 10], "class": [252, 1]}
    path, _ = save_network(tmp_path, heads, tail)
    fitting = families_that_fit(load_checkpoint(str(path)))
    assert "yolov5" not in [family.name for family, _ in fitting]
