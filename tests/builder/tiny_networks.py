"""Networks small enough to write down: head tensors that are random linear functions of the picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE_PX = 64


def save_linear_network(
    path: Path, heads: dict[str, list[int]], *, batch: int | str = 1, seed: int = 0, middle: str = ""
) -> Path:
    """Write a network [batch,3,64,64] -> ``heads`` (shapes without the batch) with random weights.

    ``middle`` "mean" puts a mean over the batch inside, "squeeze" a Squeeze of axis 0 and its inverse, "norm"
    a division by the norm over the batch: ways of computing over the batch, the last of which stays.
    """
    rng = np.random.default_rng(seed)
    features = 8
    nodes = [
        helper.make_node(
            "AveragePool", ["images"], ["pooled"], "pool", kernel_shape=[16, 16], strides=[16, 16]
        ),
        helper.make_node("Reshape", ["pooled", "flat_shape"], ["flat"], "flatten"),
        helper.make_node("MatMul", ["flat", "project"], ["features"], "project_features"),
    ]
    weights = {
        "flat_shape": np.array([1, 48] if batch == 1 else [-1, 48]),
        "project": rng.normal(0, 0.003, (48, features)).astype(np.float32),
    }
    source = "features"
    if middle == "mean":
        nodes += [
            helper.make_node("ReduceMean", [source], ["mean"], "mean_of_batch", axes=[0], keepdims=1),
            helper.make_node("Sub", [source, "mean"], ["centred"], "centre"),
            helper.make_node("Add", [source, "centred"], ["mixed"], "mix"),
        ]
        source = "mixed"
    elif middle == "squeeze":
        weights["axis"] = np.array([0])
        nodes += [
            helper.make_node("Squeeze", [source, "axis"], ["squeezed"], "drop_batch"),
            helper.make_node("Unsqueeze", ["squeezed", "axis"], ["back"], "add_batch"),
        ]
        source = "back"
    elif middle == "norm":
        nodes += [
            helper.make_node("LpNormalization", [source], ["unit"], "norm_of_batch", axis=0),
            helper.make_node("Add", [source, "unit"], ["mixed"], "mix"),
        ]
        source = "mixed"
    for name, shape in heads.items():
        size = int(np.prod(shape))
        weights[f"{name}_weight"] = rng.normal(0, 1, (features, size)).astype(np.float32)
        weights[f"{name}_shape"] = np.array([1 if batch == 1 else -1, *shape])
        nodes += [
            helper.make_node("MatMul", [source, f"{name}_weight"], [f"{name}_flat"], f"{name}_matmul"),
            helper.make_node("Reshape", [f"{name}_flat", f"{name}_shape"], [name], f"{name}_reshape"),
        ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, SIDE_PX, SIDE_PX])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *shape])
            for name, shape in heads.items()
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def pictures(count: int, seed: int = 1) -> np.ndarray:
    """``count`` random network inputs, uint8 [count,64,64,3] RGB."""
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE_PX, SIDE_PX, 3), np.uint8)


def save_yolox(path: Path, seed: int = 0) -> Path:
    """A YOLOX of three classes with random weights whose boxes and scores are those of a detector."""
    save_linear_network(path, {"raw": [84, 8]}, seed=seed)
    model = onnx.load(path)
    sizes = numpy_helper.from_array(np.array([4, 1, 3]), "sizes")
    model.graph.initializer.append(sizes)
    parts = ["raw_boxes", "raw_objectness", "raw_classes"]
    model.graph.node.extend(
        [
            helper.make_node("Split", ["raw", "sizes"], parts, "split", axis=2),
            helper.make_node("Tanh", ["raw_boxes"], ["offsets"], "bound"),
            helper.make_node("Sigmoid", ["raw_objectness"], ["objectness"], "activate_objectness"),
            helper.make_node("Sigmoid", ["raw_classes"], ["class_scores"], "activate_classes"),
            helper.make_node("Concat", ["offsets", "objectness", "class_scores"], ["output"], "join", axis=2),
        ]
    )
    model.graph.output[0].name = "output"
    onnx.save(model, path)
    return path
