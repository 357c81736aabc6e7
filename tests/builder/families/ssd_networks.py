"""SSD networks small enough to write down: 1x1 convolutions on a 4x4 and a 2x2 map of a 64x64 picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.builder.tiny_networks import SIDE_PX

MAP_SIDES = (4, 2)


def save_ssd(
    path: Path,
    per_cell: int,
    columns: int,
    *,
    names: tuple[str, str] = ("loc", "conf"),
    activation: str = "",
    priors: Mapping[str, np.ndarray] | None = None,
    decoded: bool = False,
    head_op: str = "Conv",
    batch: int | str = "batch",
    seed: int = 0,
    bias: float | tuple[float, ...] = 0.0,
) -> Path:
    """Write a network with outputs [batch,A,4] and [batch,A,columns], A = 20 * per_cell, random weights.

    ``activation`` "Softmax" or "Sigmoid" ends the scores. ``priors`` are initialisers that no node reads,
    unless ``decoded``: then "centers" and "sizes" [A,2] decode the boxes with variances .1 and .2.
    ``head_op`` "MatMul" predicts with a matrix product, as transformers do. ``bias`` shifts activated scores.
    """
    rng = np.random.default_rng(seed)
    weights: dict[str, np.ndarray] = dict(priors or {})
    nodes, anchors = [], 20 * per_cell
    for side in MAP_SIDES:
        size = SIDE_PX // side
        pool = {"kernel_shape": [size, size], "strides": [size, size]}
        nodes.append(helper.make_node("AveragePool", ["images"], [f"map_{side}"], **pool))
    for name, fields in zip(names, (4, columns), strict=True):
        raw = f"{name}_raw" if (decoded and fields == 4) or (activation and name == names[1]) else name
        rows = numpy_helper.from_array(np.array([1 if batch == 1 else 0, -1, fields]))
        nodes.append(helper.make_node("Constant", [], [f"{name}_rows"], value=rows))
        for side in MAP_SIDES:
            weight = rng.normal(0, 3, (per_cell * fields, 3)).astype(np.float32)
            head = f"{name}_{side}"
            if head_op == "Conv":
                weights[f"{head}_weight"] = weight.reshape(-1, 3, 1, 1)
                nodes += [
                    helper.make_node("Conv", [f"map_{side}", f"{head}_weight"], [f"{head}_map"]),
                    helper.make_node("Transpose", [f"{head}_map"], [f"{head}_last"], perm=[0, 2, 3, 1]),
                ]
            else:
                weights[f"{head}_weight"] = weight.T.copy()
                nodes += [
                    helper.make_node("Transpose", [f"map_{side}"], [f"{head}_map"], perm=[0, 2, 3, 1]),
                    helper.make_node("MatMul", [f"{head}_map", f"{head}_weight"], [f"{head}_last"]),
                ]
            nodes.append(helper.make_node("Reshape", [f"{head}_last", f"{name}_rows"], [f"{head}_out"]))
        nodes.append(helper.make_node("Concat", [f"{name}_{s}_out" for s in MAP_SIDES], [raw], axis=1))
    if activation:
        attrs = {"axis": 2} if activation == "Softmax" else {}
        weights["score_bias"] = np.broadcast_to(np.float32(bias), columns)
        nodes.append(helper.make_node("Add", [f"{names[1]}_raw", "score_bias"], ["shifted"]))
        nodes.append(helper.make_node(activation, ["shifted"], [names[1]], **attrs))
    if decoded:
        nodes += _decode(names[0], weights)
    graph = helper.make_graph(
        nodes,
        "ssd",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, SIDE_PX, SIDE_PX])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, anchors, fields])
            for name, fields in zip(names, (4, columns), strict=True)
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def _decode(name: str, weights: dict[str, np.ndarray]) -> list[onnx.NodeProto]:
    weights |= {
        "half": np.array([2, 2]),
        "v_center": np.float32(0.1),
        "v_size": np.float32(0.2),
        "two": np.float32(2),
    }
    steps = (
        ("Split", (f"{name}_raw", "half"), ("t_center", "t_size")),
        ("Mul", ("t_center", "v_center"), ("c1",)),
        ("Mul", ("c1", "sizes"), ("c2",)),
        ("Add", ("c2", "centers"), ("center",)),
        ("Mul", ("t_size", "v_size"), ("s1",)),
        ("Exp", ("s1",), ("s2",)),
        ("Mul", ("s2", "sizes"), ("size",)),
        ("Div", ("size", "two"), ("half_size",)),
        ("Sub", ("center", "half_size"), ("low",)),
        ("Add", ("center", "half_size"), ("high",)),
        ("Concat", ("low", "high"), (name,)),
    )
    attrs = {"Split": {"axis": 2}, "Concat": {"axis": 2}}
    return [helper.make_node(op, given, made, **attrs.get(op, {})) for op, given, made in steps]
