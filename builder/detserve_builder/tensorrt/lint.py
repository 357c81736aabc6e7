"""What TensorRT would refuse in an ONNX graph or, worse, compute differently, with the reason.

Each rule is what TensorRT-RTX 1.7 and the TensorRT documentation say; ``tests/builder/tensorrt`` holds every
rule against the compiler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from detserve_builder.errors import BuildError

if TYPE_CHECKING:
    import onnx

OLDEST_OPSET, NEWEST_OPSET = 13, 24  # 13 has per-channel Q/DQ; the parser of TensorRT 10.14 reads up to 24
MAX_TOP_K = 3840

#: Operators of TensorRT that TensorRT-RTX 1.7 lacks, compiles only beside a driver, or does not survive.
ONLY_IN_TENSORRT = frozenset({"NonMaxSuppression", "RoiAlign", "NonZero", "Attention"})

_REPLACED = {
    "QLinearConv": "Q/DQ nodes around Conv",
    "QLinearMatMul": "Q/DQ nodes around MatMul",
    "ConvInteger": "Q/DQ nodes around Conv",
    "MatMulInteger": "Q/DQ nodes around MatMul",
    "DynamicQuantizeLinear": "a calibrated QuantizeLinear",
}
_LACKING = frozenset(
    {
        *("AffineGrid", "Bernoulli", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "CenterCropPad"),
        *("Col2Im", "Compress", "Det", "MaxRoiPool", "Unique"),
    }
)
#: What an attribute must be, where TensorRT takes no other value.
_ONLY: dict[str, dict[str, tuple[Any, ...]]] = {
    "Resize": {
        "antialias": (0,),
        "keep_aspect_ratio_policy": (b"stretch",),
        "coordinate_transformation_mode": (
            *(b"align_corners", b"asymmetric", b"half_pixel", b"pytorch_half_pixel"),
            *(b"tf_half_pixel_for_nn", b"tf_crop_and_resize"),
        ),
    },
    "MaxPool": {"dilations": ([1], [1, 1], [1, 1, 1])},
    "AveragePool": {"dilations": ([1], [1, 1], [1, 1, 1])},
}
_UNKNOWN_DTYPES = ("INT16", "UINT16", "UINT32", "UINT64", "STRING", "COMPLEX64", "COMPLEX128")


@dataclass(frozen=True)
class Finding:
    """One thing TensorRT would not take: node or tensor, and what is wrong with it and how to fix it."""

    where: str
    reason: str

    def __str__(self) -> str:
        """Where and why, in one line."""
        return f"{self.where}: {self.reason}"


def check(model: onnx.ModelProto, *, where: str) -> None:
    """Raise :class:`BuildError` with the first finding of ``model``; ``where`` is the name to call it by."""
    findings = lint(model)
    if findings:
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        raise BuildError(f"{where}: not for TensorRT: {findings[0]}{more}")


def lint(model: onnx.ModelProto) -> list[Finding]:
    """Every finding, rule by rule, each in the order of the nodes. Shapes and dtypes are inferred anew."""
    graph = _outline(model)
    return [finding for rule in _RULES for finding in rule(graph)]


@dataclass(frozen=True)
class _Outline:
    opset: int
    nodes: list[onnx.NodeProto]
    outputs: list[onnx.ValueInfoProto]
    constants: dict[str, onnx.TensorProto]
    dtypes: dict[str, str] = field(default_factory=dict)


def _outline(model: onnx.ModelProto) -> _Outline:
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model)
    graph = inferred.graph
    name_of = onnx.TensorProto.DataType.Name
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    dtypes = {name: name_of(tensor.data_type) for name, tensor in constants.items()}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dtypes[value.name] = name_of(value.type.tensor_type.elem_type)
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    return _Outline(opset, list(graph.node), list(graph.output), constants, dtypes)


def _opset(graph: _Outline) -> Iterator[Finding]:
    if not OLDEST_OPSET <= graph.opset <= NEWEST_OPSET:
        yield Finding(
            "the model",
            f"opset {graph.opset}, expected {OLDEST_OPSET} to {NEWEST_OPSET}; export it at one of these",
        )


def _operators(graph: _Outline) -> Iterator[Finding]:
    for node in graph.nodes:
        if node.op_type in _REPLACED:
            yield Finding(_name(node), f"TensorRT has no {node.op_type}; write {_REPLACED[node.op_type]}")
        elif node.op_type in _LACKING:
            yield Finding(_name(node), f"TensorRT has no {node.op_type}; export the network without it")
        elif node.op_type == "MaxPool" and any(node.output[1:]):
            yield Finding(_name(node), "gives the places of the maxima too, which TensorRT does not have")
        elif node.domain not in ("", "ai.onnx"):
            yield Finding(
                _name(node), f"an operator of the domain {node.domain!r}, which TensorRT does not know"
            )


def _attributes(graph: _Outline) -> Iterator[Finding]:
    from onnx import helper

    for node in graph.nodes:
        taken = _ONLY.get(node.op_type, {})
        for attribute in node.attribute:
            value = helper.get_attribute_value(attribute)
            if attribute.name in taken and value not in taken[attribute.name]:
                shown = value.decode() if isinstance(value, bytes) else value
                yield Finding(_name(node), f"its {attribute.name} is {shown}, which TensorRT does not have")


def _quantisation(graph: _Outline) -> Iterator[Finding]:
    for node in graph.nodes:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            reason = _quantisation_mistake(graph, node)
            if reason:
                yield Finding(_name(node), reason)


def _quantisation_mistake(graph: _Outline, node: onnx.NodeProto) -> str:
    scale, zero_point = node.input[1], node.input[2] if len(node.input) > 2 else ""
    dtype = _quantised_dtype(graph, node)
    if dtype == "INT32":
        return "dequantises an INT32 bias; leave the bias in float (QuantizeBias=False)"
    if dtype in ("INT16", "UINT16"):
        return f"{dtype} runs in ONNX Runtime on the CPU only; quantise to INT8 for TensorRT"
    if dtype == "UINT8":
        return "UINT8, which TensorRT reads as INT8 and clips at 127; quantise to INT8 for TensorRT"
    for name, what in ((scale, "scale"), (zero_point, "zero point")):
        if name and name not in graph.constants:
            return f"its {what} is computed, expected a constant"
    if zero_point and _any(graph.constants[zero_point], lambda values: values != 0):
        return "its zero point is not 0; TensorRT quantises symmetrically (ActivationSymmetric=True)"
    if _any(graph.constants[scale], lambda values: ~(values > 0)):
        return "its scale is not positive"
    return ""


def _quantised_dtype(graph: _Outline, node: onnx.NodeProto) -> str:
    """Of the integer side. ONNX says UINT8 for a QuantizeLinear without a zero point, TensorRT takes INT8."""
    if len(node.input) > 2 and node.input[2]:
        return graph.dtypes.get(node.input[2], "")
    integer = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
    return graph.dtypes.get(integer) or ("UINT8" if node.op_type == "QuantizeLinear" else "")


def _bytes_are_cast(graph: _Outline) -> Iterator[Finding]:
    quantisation = ("Cast", "QuantizeLinear", "DequantizeLinear")
    outputs = {output.name for output in graph.outputs}
    for node in graph.nodes:
        if node.op_type in quantisation:
            inner = [name for name in node.output if node.op_type == "Cast" and name not in outputs]
        else:
            inner = [*node.input, *node.output]
        wrong = next((name for name in inner if graph.dtypes.get(name) == "UINT8"), None)
        if wrong is not None:
            yield Finding(
                _name(node), f"computes on the UINT8 tensor {wrong!r}; cast UINT8 inputs before all else"
            )


def _unknown_dtypes(graph: _Outline) -> Iterator[Finding]:
    quantisation = ("QuantizeLinear", "DequantizeLinear")  # their own rule says more
    for node in graph.nodes:
        if node.op_type in quantisation:
            continue
        for name in node.output:
            if graph.dtypes.get(name) in _UNKNOWN_DTYPES:
                yield Finding(_name(node), f"gives {graph.dtypes[name]}, which TensorRT does not have")


def _top_k(graph: _Outline) -> Iterator[Finding]:
    for node in graph.nodes:
        if node.op_type != "TopK" or node.input[1] not in graph.constants:
            continue  # a K made of shapes is TensorRT's to compute
        if _any(graph.constants[node.input[1]], lambda values: values > MAX_TOP_K):
            yield Finding(
                _name(node), f"its K is over {MAX_TOP_K}, the most TensorRT takes; lower candidates"
            )


def _outputs_have_a_size(graph: _Outline) -> Iterator[Finding]:
    for output in graph.outputs:
        dims = output.type.tensor_type.shape.dim
        if not output.type.tensor_type.HasField("shape") or any(not dim.dim_value for dim in dims[1:]):
            shown = [dim.dim_value or dim.dim_param or "?" for dim in dims]
            yield Finding(
                f"output {output.name}",
                f"its shape {shown} is not fixed beyond the batch; Triton could not batch it",
            )


_RULES: tuple[Callable[[_Outline], Iterable[Finding]], ...] = (
    _opset,
    _operators,
    _attributes,
    _quantisation,
    _bytes_are_cast,
    _unknown_dtypes,
    _top_k,
    _outputs_have_a_size,
)


def _any(tensor: onnx.TensorProto, wrong: Callable[[Any], Any]) -> bool:
    from onnx import numpy_helper

    return bool(wrong(numpy_helper.to_array(tensor)).any())


def _name(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {node.name or node.output[0]!r}"
