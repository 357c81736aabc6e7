"""YOLOX's offsets, and boxes that the graph has decoded: YOLOX's and YOLOv6's."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detserve_builder.build import probe_pictures
from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.errors import BuildError
from detserve_builder.infer_card import infer_card
from detserve_builder.preparation.prepare import prepare
from tests.builder.families.harness import Tail, assert_decodes, save_network
from tests.builder.tiny_networks import SIDE_PX
from tests.shared_data import SHARED, YOLOX, needs_shared

NUM_CLASSES, STRIDES = 3, (8, 16, 32)
HEADS = {"box": [84, 4], "object": [84, 1], "class": [84, NUM_CLASSES]}
LABELS = {"labels": ["a", "b", "c"]}


def cells() -> tuple[np.ndarray, np.ndarray]:
    """Column and row of each of the 84 cells, and its stride."""
    where = [
        (x, y, stride)
        for stride in STRIDES
        for y in range(SIDE_PX // stride)
        for x in range(SIDE_PX // stride)
    ]
    table = np.array(where, np.float32)
    return table[:, :2], table[:, 2:]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def formula(heads):
    grid, stride = cells()
    center, size = (heads["box"][:, :2] + grid) * stride, np.exp(heads["box"][:, 2:]) * stride
    scores = sigmoid(heads["object"]) * sigmoid(heads["class"])
    return np.concatenate([center - size / 2, center + size / 2], 1), scores


def raw() -> Tail:
    tail = Tail()
    parts = [tail.node("Sigmoid", [name], f"{name}_score") for name in ("object", "class")]
    tail.output(tail.node("Concat", ["box", *parts], "output", axis=2), [84, 5 + NUM_CLASSES])
    return tail


def decoded(*, yolov6: bool = False, as_blob: bool = False) -> Tail:
    """Joined, cut again, decoded and joined, as --decode_in_inference does it.

    ``as_blob`` adds nothing to all columns at last, which hides where they come from.
    """
    tail, (grid, stride) = Tail(), cells()
    scores = [tail.node("Sigmoid", [name], f"{name}_score") for name in ("object", "class")]
    if yolov6:
        zero = tail.node("Sub", ["object", "object"], "zero")
        scores[0] = tail.node("Add", [zero, tail.constant("one", np.float32(1))], "ones")
    joined = tail.node("Concat", ["box", *scores], "joined", axis=2)
    ends = [tail.constant(f"at_{end}", [end]) for end in (0, 2, 4, 5 + NUM_CLASSES)]
    axis = tail.constant("last", [2])
    parts = [tail.node("Slice", [joined, start, end, axis], f"part_{end}") for start, end in pairwise(ends)]
    tail.constant("grid", grid[None]), tail.constant("stride", stride[None])
    center = tail.node("Mul", [tail.node("Add", [parts[0], "grid"], "moved"), "stride"], "center")
    size = tail.node("Mul", [tail.node("Exp", [parts[1]], "grown"), "stride"], "size")
    output = tail.node("Concat", [center, size, parts[2]], "output", axis=2)
    if as_blob:
        output = tail.node("Add", [output, tail.constant("nothing", np.float32(0))], "blob")
    tail.output(output, [84, 5 + NUM_CLASSES])
    return tail


TAILS = {
    "raw": raw(),
    "decoded in the graph": decoded(),
    "decoded, columns hidden": decoded(as_blob=True),
}


@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS)
@pytest.mark.parametrize("batch", [1, 5])
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_rows(tmp_path_factory, tail, batch, seed) -> None:
    folder = tmp_path_factory.mktemp("net")
    assert_decodes(folder, HEADS, formula, family="yolox", batch=batch, seed=seed, tail=tail)


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_yolov6(tmp_path_factory, seed) -> None:
    def without_objectness(heads):
        return formula(heads)[0], sigmoid(heads["class"])

    folder, tail = tmp_path_factory.mktemp("net"), decoded(yolov6=True)
    assert_decodes(folder, HEADS, without_objectness, family="yolox", batch=2, seed=seed, tail=tail)


def test_yolov6_takes_other_pictures(tmp_path) -> None:
    """YOLOv6, yolov6/data/data_augment.py: letterbox in the middle, RGB in 0..1; YOLOX: BGR in 0..255."""
    found = {}
    for name, tail in (("YOLOX", decoded()), ("YOLOv6", decoded(yolov6=True))):
        path, _ = save_network(tmp_path, HEADS, tail)
        card = infer_card(load_checkpoint(str(path)))
        found[name] = (card.preprocess.resize.value, card.preprocess.color.value, card.preprocess.scale)
        assert card.head["decoded"] is True
    assert found == {"YOLOX": ("letterbox_topleft", "bgr", 1), "YOLOv6": ("letterbox_center", "rgb", 1 / 255)}


@needs_shared
def test_a_decoded_yolox_serves_what_the_raw_one_does() -> None:
    found = []
    for path in (YOLOX, SHARED / "models/todays/trained/yolox_nano_decoded.onnx"):
        checkpoint = load_checkpoint(str(path))
        card = infer_card(checkpoint)
        images = probe_pictures(card)
        prepared = prepare(checkpoint, card, images)
        assert prepared.batch_obstacle is None
        session = ort.InferenceSession(prepared.model.SerializeToString())
        found.append(session.run(["boxes", "scores"], {"images": images}))
    (raw_boxes, raw_scores), (boxes, scores) = found
    np.testing.assert_allclose(scores, raw_scores, atol=1e-4)
    np.testing.assert_allclose(boxes[:, :20], raw_boxes[:, :20], atol=0.05)


def test_structure_tells_where_an_untrained_network_does_not(tmp_path) -> None:
    """Boxes of a network without training need not follow their cells; what makes them still tells."""
    wild = {**HEADS, "box": [84, 4]}
    tail = decoded()
    tail.constants = [c for c in tail.constants if c.name != "grid"]
    tail.constant("grid", np.random.default_rng(0).uniform(0, 8, (1, 84, 2)).astype(np.float32))
    path, _ = save_network(tmp_path, wild, tail)
    assert infer_card(load_checkpoint(str(path))).head["decoded"] is True


def test_a_turned_yolox_is_not_taken_for_a_yolov8_with_a_class_more(tmp_path) -> None:
    tail = Tail()
    for name in ("object", "class"):
        tail.node("Sigmoid", [name], f"{name}_score")
    tail.output(tail.node("Concat", ["box", "object_score", "class_score"], "turned", axis=1), [8, 84])
    heads = {"box": [4, 84], "object": [1, 84], "class": [3, 84]}
    network, _ = save_network(tmp_path, heads, tail)
    with pytest.raises(BuildError, match="no known detector gives turned"):
        infer_card(load_checkpoint(str(network)))


@pytest.mark.parametrize("heads", [{"box": [84, 4]}, {"box": [252, 4]}, {"box": [84, 4], "object": [84, 1]}])
def test_class_scores_that_hold_the_objectness_are_none_of_the_yolos(tmp_path, heads) -> None:
    """As somebody's own export multiplies them: the first class is not an objectness."""
    tail, rows = Tail(), heads["box"][0]
    tail.node("Sigmoid", ["class"], "activated")
    tail.node("Mul", ["activated", tail.constant("half", np.float32(0.5))], "product")
    parts = ["box"]
    if "object" in heads:
        parts.append(tail.node("Sigmoid", ["object"], "objectness"))
    tail.output(tail.node("Concat", [*parts, "product"], "output", axis=2), [rows, 4 + len(parts) - 1 + 3])
    network, _ = save_network(tmp_path, {**heads, "class": [rows, 3]}, tail)
    with pytest.raises(BuildError, match="no known detector gives output"):
        infer_card(load_checkpoint(str(network)))
