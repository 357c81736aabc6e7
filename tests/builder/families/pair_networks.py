"""Networks small enough to write down that end in decoded boxes and scores, or in a plugin behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.builder.families.harness import Tail, save_network

ANCHORS = 84  # cells of 64x64 at strides 8, 16 and 32
CLASSES = 3
HEADS = {"raw_boxes": [ANCHORS, 4], "raw_scores": [ANCHORS, CLASSES]}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def formula(heads: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [84,4] in pixels and scores [84,3]."""
    return boxes_of(heads["raw_boxes"]), sigmoid(heads["raw_scores"])


def boxes_of(raw: np.ndarray) -> np.ndarray:
    low = raw[..., :2] * 10
    return np.concatenate([low, low + 40 * sigmoid(raw[..., 2:]) + 1], -1)


def decoded(
    *, classes_first: bool = False, activated: bool = True, raw: str = "raw_boxes", of: int = 3
) -> Tail:
    """Tensors boxes [1,84,4] x1,y1,x2,y2 and scores; ``of`` is the axis of the four numbers minus one."""
    tail = Tail()
    halves = tail.constant("halves", np.array([2, 2]))
    tail.node("Split", [raw, halves], "raw_low", "raw_size", axis=of - 1)
    tail.node("Mul", ["raw_low", tail.constant("ten", np.float32(10))], "low")
    tail.node("Sigmoid", ["raw_size"], "share")
    tail.node("Mul", ["share", tail.constant("forty", np.float32(40))], "wide")
    tail.node("Add", ["wide", tail.constant("one", np.float32(1))], "size")
    tail.node("Add", ["low", "size"], "high")
    tail.node("Concat", ["low", "high"], "boxes", axis=of - 1)
    source = "raw_scores"
    if activated:
        source = tail.node("Sigmoid", [source], "activated")
    if classes_first:
        tail.node("Transpose", [source], "scores", perm=[0, 2, 1])
    else:
        tail.node("Identity", [source], "scores")
    return tail


def plain(*, classes_first: bool = False) -> Tail:
    """The pair as outputs."""
    tail = decoded(classes_first=classes_first)
    tail.output("boxes", [ANCHORS, 4])
    tail.output("scores", [CLASSES, ANCHORS] if classes_first else [ANCHORS, CLASSES])
    return tail


def save_plugin(
    folder: Path, operator: str, tail: Tail, *, inputs: tuple[str, ...] = ("boxes", "scores"),
    heads: dict[str, list[int]] = HEADS, seed: int = 0, domain: str = "TRT", **attributes: Any,
) -> tuple[Path, Path]:  # fmt: skip
    """A network that ends in a suppression plugin, and the one without its tail."""
    made = ["num_dets", "det_boxes", "det_scores", "det_classes"]
    tail.nodes.append(helper.make_node(operator, inputs, made, "plugin", domain=domain, **attributes))
    tail.output("num_dets", [1], TensorProto.INT32)
    tail.output("det_boxes", [10, 4])
    tail.output("det_scores", [10])
    tail.output("det_classes", [10], TensorProto.INT32)
    path, base = save_network(folder, heads, tail, seed=seed)
    model = onnx.load(path)
    if domain:
        model.opset_import.append(helper.make_opsetid(domain, 1))
    onnx.save(model, path)
    return path, base
