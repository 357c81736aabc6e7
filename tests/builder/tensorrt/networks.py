"""Graphs of a few nodes, each with one thing TensorRT takes or does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Tensor = tuple[str, int, list[int | str]]
PICTURE: Tensor = ("x", TensorProto.FLOAT, ["N", 3, 8, 8])


def graph(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, object] | None = None,
    *,
    inputs: Sequence[Tensor] = (PICTURE,),
    output: Tensor = ("y", TensorProto.FLOAT, ["N", 3, 8, 8]),
    opset: int = 17,
) -> onnx.ModelProto:
    """A model of ``nodes`` from ``inputs`` to ``output``."""
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    made = helper.make_graph(
        list(nodes),
        "one_thing",
        [helper.make_tensor_value_info(*given) for given in inputs],
        [helper.make_tensor_value_info(*output)],
        weights,
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(made, opset_imports=opsets, ir_version=8 if opset < 21 else 10)


def quantised(zero_point: np.generic | None, *, scale: float = 0.1, opset: int = 17) -> onnx.ModelProto:
    """QuantizeLinear and DequantizeLinear."""
    constants: dict[str, object] = {"scale": np.float32(scale)}
    parameters = ["scale"]
    if zero_point is not None:
        constants["zero"] = zero_point
        parameters.append("zero")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", *parameters], ["q"], "quantise"),
        helper.make_node("DequantizeLinear", ["q", *parameters], ["y"], "dequantise"),
    ]
    return graph(nodes, constants, opset=opset)


def int32_bias() -> onnx.ModelProto:
    """A bias as ONNX Runtime quantises it by default."""
    nodes = [
        helper.make_node("DequantizeLinear", ["bias", "scale"], ["bias_float"], "bias"),
        helper.make_node("Add", ["x", "bias_float"], ["y"], "add"),
    ]
    return graph(nodes, {"bias": np.ones((3, 1, 1), np.int32), "scale": np.float32(0.1)})


def top_k(k: int) -> onnx.ModelProto:
    """The best K of 19200 values."""
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["values"], "flatten"),
        helper.make_node("TopK", ["values", "k"], ["y", "indices"], "best", axis=1),
    ]
    constants = {"flat": np.array([0, -1]), "k": np.array([k])}
    x: Tensor = ("x", TensorProto.FLOAT, ["N", 3, 80, 80])
    return graph(nodes, constants, inputs=[x], output=("y", TensorProto.FLOAT, ["N", k]))


def picture_first(op: str, **attributes: object) -> onnx.ModelProto:
    """A UINT8 picture [N,8,8,3] through ``op`` ("" for none) and then a Cast."""
    x: Tensor = ("x", TensorProto.UINT8, ["N", 8, 8, 3])
    nodes = [helper.make_node("Cast", ["moved" if op else "x"], ["y"], "cast", to=TensorProto.FLOAT)]
    if op:
        nodes.insert(0, helper.make_node(op, ["x"], ["moved"], "move", **attributes))
    return graph(nodes, inputs=[x], output=("y", TensorProto.FLOAT, ["N", "a", "b", "c"]))


def through(dtype: int) -> onnx.ModelProto:
    """float -> ``dtype`` -> float."""
    nodes = [
        helper.make_node("Cast", ["x"], ["there"], "there", to=dtype),
        helper.make_node("Cast", ["there"], ["y"], "back", to=TensorProto.FLOAT),
    ]
    return graph(nodes)


def resized(**attributes: object) -> onnx.ModelProto:
    """Half the size, linearly."""
    node = helper.make_node("Resize", ["x", "", "half"], ["y"], "resize", mode="linear", **attributes)
    half = np.array([1, 1, 0.5, 0.5], np.float32)
    return graph([node], {"half": half}, output=("y", TensorProto.FLOAT, ["N", 3, 4, 4]), opset=19)


def pooled(*, places: bool = False, **attributes: object) -> onnx.ModelProto:
    """The maxima of 2x2, and ``places`` where they are."""
    outputs = ["y", "where"] if places else ["y"]
    node = helper.make_node("MaxPool", ["x"], outputs, "pool", kernel_shape=[2, 2], **attributes)
    return graph([node], output=("y", TensorProto.FLOAT, ["N", 3, "h", "w"]), opset=19)


def compressed() -> onnx.ModelProto:
    """Two of three channels by Compress."""
    node = helper.make_node("Compress", ["x", "which"], ["y"], "compress", axis=1)
    return graph(
        [node], {"which": np.array([True, False, True])}, output=("y", TensorProto.FLOAT, ["N", 2, 8, 8])
    )


def attention() -> onnx.ModelProto:
    """Attention of a picture to itself between two activations: left to TensorRT."""
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["before"], "before"),
        helper.make_node("Attention", ["before", "before", "before"], ["between"], "attend"),
        helper.make_node("Relu", ["between"], ["y"], "behind"),
    ]
    return graph(nodes, opset=23)


def nms_inside() -> onnx.ModelProto:
    """Boxes -> NonMaxSuppression -> their scores, with arithmetic before and behind it."""
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["boxes"], "scale_boxes"),
        helper.make_node("Sigmoid", ["logits"], ["scores"], "scores"),
        helper.make_node("NonMaxSuppression", ["boxes", "scores", "most", "iou"], ["kept"], "nms"),
        helper.make_node("Cast", ["kept"], ["kept_float"], "to_float", to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["kept_float", "axis"], ["y"], "sum", keepdims=1),
    ]
    constants = {
        "two": np.float32(2),
        "most": np.array([10]),
        "iou": np.array([0.5], np.float32),
        "axis": np.array([0]),
    }
    inputs: list[Tensor] = [
        ("x", TensorProto.FLOAT, [1, 50, 4]),
        ("logits", TensorProto.FLOAT, [1, 2, 50]),
    ]
    return graph(nodes, constants, inputs=inputs, output=("y", TensorProto.FLOAT, [1, 3]))


def two_stages() -> onnx.ModelProto:
    """A tiny Faster R-CNN: boxes -> NonMaxSuppression -> RoiAlign -> convolution -> a vector a region."""
    nodes = [
        helper.make_node("Relu", ["features"], ["backbone"], "backbone"),
        helper.make_node("Sigmoid", ["logits"], ["scores"], "scores"),
        helper.make_node("NonMaxSuppression", ["x", "scores", "most", "iou"], ["kept"], "nms"),
        helper.make_node("Gather", ["kept", "two"], ["index"], "which", axis=1),
        helper.make_node("Squeeze", ["x", "zero"], ["boxes"], "boxes"),
        helper.make_node("Gather", ["boxes", "index"], ["regions"], "regions", axis=0),
        helper.make_node("Mul", ["index", "none"], ["picture"], "first_picture"),
        helper.make_node(
            "RoiAlign",
            ["backbone", "regions", "picture"],
            ["crops"],
            "crop",
            output_height=4,
            output_width=4,
        ),
        helper.make_node("Conv", ["crops", "weight"], ["head"], "head"),
        helper.make_node("Flatten", ["head"], ["y"], "flatten"),
    ]
    constants = {
        "most": np.array([10]),
        "iou": np.array([0.5], np.float32),
        "two": np.array(2),
        "zero": np.array([0]),
        "none": np.array(0),
        "weight": np.ones((8, 8, 4, 4), np.float32),
    }
    inputs: list[Tensor] = [
        ("x", TensorProto.FLOAT, [1, 50, 4]),
        ("logits", TensorProto.FLOAT, [1, 1, 50]),
        ("features", TensorProto.FLOAT, [1, 8, 16, 16]),
    ]
    return graph(nodes, constants, inputs=inputs, output=("y", TensorProto.FLOAT, ["regions", 8]))


def nms_in_a_branch() -> onnx.ModelProto:
    """As torchvision's batched_nms is exported: no boxes, no suppression."""
    boxes = ("x", TensorProto.FLOAT, [1, 50, 4])
    kept = helper.make_tensor_value_info("kept_inside", TensorProto.INT64, ["n", 3])
    none = helper.make_tensor_value_info("none_inside", TensorProto.INT64, ["n", 3])
    suppress = helper.make_graph(
        [helper.make_node("NonMaxSuppression", ["twice", "scores", "most"], ["kept_inside"], "nms")],
        "suppress",
        [],
        [kept],
    )
    nothing = helper.make_graph(
        [helper.make_node("Identity", ["empty"], ["none_inside"], "nothing")], "nothing", [], [none]
    )
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["twice"], "twice"),
        helper.make_node("ReduceMax", ["twice"], ["largest"], "largest", keepdims=0),
        helper.make_node("Greater", ["largest", "least"], ["any"], "any"),
        helper.make_node("If", ["any"], ["kept"], "if_any", then_branch=suppress, else_branch=nothing),
        helper.make_node("Cast", ["kept"], ["kept_float"], "to_float", to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["kept_float", "axis"], ["y"], "sum", keepdims=1),
    ]
    constants = {
        "two": np.float32(2),
        "least": np.float32(0),
        "most": np.array([10]),
        "scores": np.ones((1, 2, 50), np.float32),
        "empty": np.zeros((0, 3), np.int64),
        "axis": np.array([0]),
    }
    return graph(nodes, constants, inputs=[boxes], output=("y", TensorProto.FLOAT, [1, 3]))
