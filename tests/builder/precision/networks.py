"""A convolutional detector small enough to quantise in a second, with everything that precision is about."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from detserve_builder.build import probe_pictures
from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.graph.network import named_nodes
from detserve_builder.infer_card import infer_card
from detserve_builder.preparation.prepare import prepare
from detserve_client import Card

CLASSES = 3
_FIELDS = 5 + CLASSES


def save_convolutional_network(path: Path, *, seed: int = 0, gain: float = 1.0, opset: int = 13) -> Path:
    """Write a YOLOX-shaped network [1,3,64,64] -> [1,84,8]: SiLU, a depthwise layer, a residual, three heads.

    ``gain`` multiplies what the second layer gives and divides what the third takes.
    """
    rng = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, np.ndarray] = {}

    def conv(
        source: str, name: str, into: int, out: int, kernel: int, stride: int = 1, group: int = 1
    ) -> str:
        fan_in = into // group * kernel**2
        weights[f"{name}_weight"] = rng.normal(0, fan_in**-0.5, (out, into // group, kernel, kernel))
        weights[f"{name}_bias"] = rng.normal(0, 0.1, out)
        pad = kernel // 2
        inputs = [source, f"{name}_weight", f"{name}_bias"]
        nodes.append(
            helper.make_node(
                *("Conv", inputs, [name], name),
                kernel_shape=[kernel] * 2,
                strides=[stride] * 2,
                pads=[pad] * 4,
                group=group,
            )
        )
        return name

    def silu(source: str) -> str:
        nodes.append(helper.make_node("Sigmoid", [source], [f"{source}_sigmoid"], f"{source}_sigmoid"))
        nodes.append(
            helper.make_node("Mul", [source, f"{source}_sigmoid"], [f"{source}_silu"], f"{source}_silu")
        )
        return f"{source}_silu"

    stem = silu(conv("images", "stem", 3, 16, 3, 4))
    weights["stem_weight"] *= 0.01
    wide = silu(conv(stem, "wide", 16, 32, 1))
    deep = silu(conv(wide, "depthwise", 32, 32, 3, 2, group=32))
    for name, factor in (("wide", gain), ("depthwise", 1 / gain)):
        weights[f"{name}_weight"] *= factor
    inner = silu(conv(deep, "inner", 32, 32, 3))
    nodes.append(helper.make_node("Add", [deep, inner], ["residual"], "residual"))
    weights["fields"] = np.array([1, _FIELDS, -1])
    source, flat = "residual", []
    for stride in (8, 16, 32):
        if stride > 8:
            source = silu(conv(source, f"down{stride}", 32, 32, 3, 2))
        head = conv(source, f"head{stride}", 32, _FIELDS, 1)
        nodes.append(helper.make_node("Reshape", [head, "fields"], [f"flat{stride}"], f"flat{stride}"))
        flat.append(f"flat{stride}")
    nodes.append(helper.make_node("Concat", flat, ["all"], "all", axis=2))
    nodes.append(helper.make_node("Transpose", ["all"], ["rows"], "rows", perm=[0, 2, 1]))
    for name, (start, end) in {"box": (0, 4), "object": (4, 5), "score": (5, _FIELDS)}.items():
        weights |= {f"{name}_start": np.array([start]), f"{name}_end": np.array([end]), "axis": np.array([2])}
        nodes.append(
            helper.make_node("Slice", ["rows", f"{name}_start", f"{name}_end", "axis"], [name], f"cut_{name}")
        )
    nodes.append(helper.make_node("Sigmoid", ["object"], ["objectness"], "objectness"))
    nodes.append(helper.make_node("Sigmoid", ["score"], ["probability"], "probability"))
    joined = ["box", "objectness", "probability"]
    nodes.append(helper.make_node("Concat", joined, ["output"], "output", axis=2))
    graph = helper.make_graph(
        nodes,
        "convolutional",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 64])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 84, _FIELDS])],
        [
            numpy_helper.from_array(value if value.dtype == np.int64 else value.astype(np.float32), name)
            for name, value in weights.items()
        ],
    )
    opsets = [helper.make_opsetid("", opset)]
    ir_version = helper.find_min_ir_version_for(opsets)
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=max(ir_version, 8)), path)
    return path


def save_one_layer(path: Path) -> Path:
    """Write a YOLOv8-shaped network of one convolution."""
    rng = np.random.default_rng(0)
    weights = {
        "weight": rng.normal(0, 0.01, (7, 3, 8, 8)).astype(np.float32),
        "flat": np.array([1, 7, 64]),
        "ten": np.array([10] * 4 + [1] * 3, np.float32).reshape(1, 7, 1),
        "padding": np.zeros((1, 7, 20), np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["images", "weight"], ["head"], "head", strides=[8, 8]),
        helper.make_node("Reshape", ["head", "flat"], ["fields"], "flatten"),
        helper.make_node("Sigmoid", ["fields"], ["shares"], "shares"),
        helper.make_node("Concat", ["shares", "padding"], ["short"], "output", axis=2),
        helper.make_node("Mul", ["short", "ten"], ["output0"], "ten_times"),
    ]
    graph = helper.make_graph(
        nodes,
        "one_layer",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 64])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 7, 84])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def prepared(path: Path, **options) -> tuple[onnx.ModelProto, Card]:
    """The network as the builder prepares it, every node with a name, and its card."""
    checkpoint = load_checkpoint(str(save_convolutional_network(path, **options)))
    card = infer_card(checkpoint, name="tiny")
    return named_nodes(prepare(checkpoint, card, probe_pictures(card)).model), card


def write_pictures(folder: Path, count: int, seed: int = 0) -> Path:
    """``count`` pictures of random rectangles on noise."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for index in range(count):
        picture = rng.integers(0, 60, (48, 60, 3), np.uint8)
        for _ in range(4):
            x, y, w, h = rng.integers(0, 40), rng.integers(0, 30), rng.integers(5, 20), rng.integers(5, 18)
            picture[y : y + h, x : x + w] = rng.integers(0, 256, 3)
        cv2.imwrite(str(folder / f"{index:02}.png"), picture)
    return folder
