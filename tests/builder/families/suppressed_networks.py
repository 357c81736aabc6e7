"""Networks small enough to write down that end in rows of box, score and class, in every usual packing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from tests.builder.families.harness import Tail, save_network
from tests.builder.tiny_networks import SIDE_PX

ROWS = 20
CLASSES = 3
KEPT_ABOVE = 0.5
HEADS = {"raw_boxes": [ROWS, 4], "raw_scores": [ROWS, CLASSES]}
# Columns of the packings that hold everything in one output.
ORDERS = {
    "yolov7": ("picture", "box", "class", "score"),
    "yolo_nas": ("picture", "box", "score", "class"),
    "batchno_classid_score_x1y1x2y2": ("picture", "class", "score", "box"),
    "paddle": ("class", "score", "box"),
    "score_class": ("box", "score", "class"),
    "class_score": ("box", "class", "score"),
}


def formula(heads: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes [20,4] in pixels, best scores [20] and their classes [20]."""
    low = heads["raw_boxes"][:, :2] * 10
    size = 40 / (1 + np.exp(-heads["raw_boxes"][:, 2:])) + 1
    scores = 1 / (1 + np.exp(-heads["raw_scores"].astype(np.float64)))
    return np.concatenate([low, low + size], 1), scores.max(1), scores.argmax(1)


def _decoded(tail: Tail) -> None:
    """The tensors box [1,20,4], score [1,20,1] and class [1,20,1]."""
    halves = tail.constant("halves", np.array([2, 2]))
    tail.node("Split", ["raw_boxes", halves], "raw_low", "raw_size", axis=2)
    tail.node("Mul", ["raw_low", tail.constant("ten", np.float32(10))], "low")
    tail.node("Sigmoid", ["raw_size"], "share")
    tail.node("Mul", ["share", tail.constant("forty", np.float32(40))], "wide")
    tail.node("Add", ["wide", tail.constant("one", np.float32(1))], "size")
    tail.node("Add", ["low", "size"], "high")
    tail.node("Concat", ["low", "high"], "box", axis=2)
    tail.node("Sigmoid", ["raw_scores"], "all_scores")
    tail.node("ReduceMax", ["all_scores"], "score", axes=[2], keepdims=1)
    tail.node("ArgMax", ["all_scores"], "class", axis=2, keepdims=1)
    tail.node("Cast", ["class"], "class_as_float", to=TensorProto.FLOAT)
    tail.constant("last", np.array([2]))


def apart(*, names: tuple[str, str, str] = ("boxes", "scores", "classes"), count: bool = False) -> Tail:
    """Boxes [1,20,4], scores [1,20] and classes [1,20], with ``count`` the number [1,1] that score well."""
    tail = Tail()
    _decoded(tail)
    boxes, scores, classes = names
    if count:
        tail.constant("enough", np.float32(KEPT_ABOVE))
        tail.node("Greater", ["score", "enough"], "good")
        tail.node("Cast", ["good"], "good_number", to=TensorProto.FLOAT)
        tail.node("ReduceL1", ["good_number"], "found", axes=[2], keepdims=0)
        tail.node("ReduceL1", ["found"], "found_in_all", axes=[1], keepdims=1)
        tail.output(
            tail.node("Cast", ["found_in_all"], "num_dets", to=TensorProto.INT32), [1], TensorProto.INT32
        )
    tail.output(tail.node("Identity", ["box"], boxes), [ROWS, 4])
    tail.output(tail.node("Squeeze", ["score", "last"], scores), [ROWS])
    tail.output(tail.node("Squeeze", ["class", "last"], classes), [ROWS], TensorProto.INT64)
    return tail


def boxes_with_score() -> Tail:
    """mmdeploy: dets [1,20,5] and labels [1,20]."""
    tail = Tail()
    _decoded(tail)
    tail.output(tail.node("Concat", ["box", "score"], "dets", axis=2), [ROWS, 5])
    tail.output(tail.node("Squeeze", ["class", "last"], "labels"), [ROWS], TensorProto.INT64)
    return tail


def in_one(name: str, *, count: bool = False, above: float = KEPT_ABOVE) -> Tail:
    """Rows [D,6] or [D,7] of what scores above that, with ``count`` all of them and how many there are."""
    tail = Tail()
    _decoded(tail)
    tail.node("Mul", ["score", tail.constant("zero", np.float32(0))], "picture")
    parts = {"box": "box", "score": "score", "class": "class_as_float", "picture": "picture"}
    columns = [parts[part] for part in ORDERS[name]]
    width = 3 + len(columns)
    tail.node("Concat", columns, "every_row", axis=2)
    tail.node("Squeeze", ["every_row", tail.constant("first", np.array([0]))], "rows_of_picture")
    if count:
        tail.node("Identity", ["rows_of_picture"], name)
        number = tail.constant("number_of_rows", np.array([ROWS], np.int32))
        tail.output(
            tail.node("Add", [number, tail.constant("none", np.int32(0))], "number"), [], TensorProto.INT32
        )
    else:
        tail.node("Greater", ["score", tail.constant("enough", np.float32(above))], "good")
        tail.node("Reshape", ["good", tail.constant("one_row", np.array([-1]))], "good_rows")
        tail.node("Compress", ["rows_of_picture", "good_rows"], name, axis=0)
    shape = [ROWS if count else "D", width]
    tail.outputs.insert(0, helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return tail


def save(folder: Path, tail: Tail, seed: int = 0) -> tuple[Path, Path]:
    """The network, and the one that :func:`formula` is fed from."""
    return save_network(folder, HEADS, tail, seed=seed)


def tensorflow() -> Tail:
    """The object detection API: y first, shares, float classes from 1, a float count, and more outputs."""
    tail = Tail()
    _decoded(tail)
    tail.node("Gather", ["box", tail.constant("y_first", np.array([1, 0, 3, 2]))], "turned", axis=2)
    tail.node("Div", ["turned", tail.constant("side", np.float32(SIDE_PX))], "detection_boxes")
    tail.output("detection_boxes", [ROWS, 4])
    tail.node("Add", ["class_as_float", "one"], "class_from_1")
    tail.output(tail.node("Squeeze", ["class_from_1", "last"], "detection_classes"), [ROWS])
    tail.output(tail.node("Squeeze", ["score", "last"], "detection_scores"), [ROWS])
    tail.output(tail.node("Identity", ["all_scores"], "detection_multiclass_scores"), [ROWS, CLASSES])
    tail.output(tail.node("Mul", ["box", "one"], "raw_detection_boxes"), [ROWS, 4])
    tail.node("Slice", ["score", "first_row", "row_after", "second_axis"], "a_score")
    tail.constant("first_row", np.array([0]))
    tail.constant("row_after", np.array([1]))
    tail.constant("second_axis", np.array([1]))
    tail.node("Mul", ["a_score", tail.constant("nothing", np.float32(0))], "no_score")
    tail.node("Add", ["no_score", tail.constant("all_rows", np.float32(ROWS))], "count")
    tail.output(
        tail.node("Reshape", ["count", tail.constant("flat_count", np.array([-1]))], "num_detections"), []
    )
    return tail
