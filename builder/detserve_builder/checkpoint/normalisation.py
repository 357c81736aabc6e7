"""What a network does to its picture itself, in front of its first layer, and must not get twice."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from detserve_builder.checkpoint.image_input import picture_of
from detserve_builder.graph.layers import OWN_PREFIX

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

_MOVES = {"Cast", "Clip", "Identity", "Reshape", "Resize", "Squeeze", "Transpose", "Unsqueeze"}
_READS_SIZE = {"Shape", "Size"}
_TURNING = {"Gather", "Slice"}
# What a network may begin with: its first layer, a Focus of slices, patches, or quantisation.
_FIRST_LAYERS = {
    *("Conv", "MatMul", "Gemm", "AveragePool", "MaxPool", "SpaceToDepth"),
    *("QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "ConvInteger", "Pad"),
}
_SPREAD = (
    0.3,
    12.0,
)  # what a normalised input spans: 1 for 0..1, 2 for -1..1, 4.4 with ImageNet's statistics
_CENTRED = 20.0  # a mean of pixels is at least this, a mean of shares never
_PLAIN = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))
_NEAR = 0.02


@dataclass(frozen=True)
class OwnNormalisation:
    """Preprocess fields that the network itself settles, and the operators in front that nothing settles.

    ``turning`` ones pick channels or pixels: the colours may be turned.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    turning: tuple[str, ...] = ()


def own_normalisation(original: onnx.ModelProto, model: onnx.ModelProto) -> OwnNormalisation:
    """What the file ``original``, whose one form is ``model``, does to a picture before its first layer.

    Mul, Div, Add and Sub by constants are followed: the values that make a usual network input of them are
    those that it wants. Bytes it wants as they are. Anything else in front of the first layer is listed, for
    it may be part of a normalisation or turn the colours.
    """
    picture = picture_of(original)
    fields: dict[str, Any] = {}
    if picture is not None and picture.dtype in ("UINT8", "INT32", "INT64"):
        fields = _wants(1.0)
    factor, shift, unknown = _affine(model, model.graph.input[0].name)
    turning = tuple(op for op in unknown if op in _TURNING)
    rest = tuple(op for op in unknown if op not in _TURNING)
    return OwnNormalisation(fields or _wanted(factor, shift), rest, turning)


def _wants(scale: float, mean: float = 0.0, std: float = 1.0) -> dict[str, Any]:
    return {"scale": scale, "mean": [mean] * 3, "std": [std] * 3}


def _wanted(factor: float, shift: float) -> dict[str, Any]:
    """The preprocess whose values become a usual network input by ``value * factor + shift``."""
    if factor == 1 and shift == 0:
        return {}
    for (low, high), fields in (
        ((0.0, 255.0), _wants(1.0)),
        ((0.0, 1.0), _wants(1 / 255)),
        ((-1.0, 1.0), _wants(1 / 255, 0.5, 0.5)),
    ):
        made = low * factor + shift, high * factor + shift
        if (low, high) != made and any(np.allclose(made, plain, atol=_NEAR) for plain in _PLAIN):
            return fields
    if _SPREAD[0] <= 255 * factor <= _SPREAD[1] or (factor == 1 and abs(shift) >= _CENTRED):
        return _wants(1.0)
    return _wants(1 / 255) if _SPREAD[0] <= factor <= _SPREAD[1] else {}


def _affine(model: onnx.ModelProto, name: str) -> tuple[float, float, tuple[str, ...]]:
    """Mean factor and shift of the arithmetic behind ``name``, and what ends it that is not a layer."""
    constants = _small_constants(model)
    factor, shift = np.ones(1), np.zeros(1)
    unknown: list[str] = []
    while True:
        readers = [n for n in model.graph.node if name in n.input and n.op_type not in _READS_SIZE]
        if len(readers) != 1:  # the slices of a Focus, or branches of a network
            unknown += [node.op_type for node in readers if node.op_type in ("Gather", "Split")]
            break
        node = readers[0]
        others = [given for given in node.input if given != name and given in constants]
        if (node.op_type in _MOVES and node.input[0] == name) or node.name.startswith(OWN_PREFIX):
            name = node.output[0]
            continue
        if node.op_type in _TURNING and node.input[0] == name:
            unknown.append(node.op_type)
            name = node.output[0]
            continue
        reversed_ = node.op_type in ("Div", "Sub") and node.input[0] != name
        if node.op_type not in ("Mul", "Div", "Add", "Sub") or len(others) != 1 or reversed_:
            if node.op_type not in _FIRST_LAYERS or _mixes_colours(model, node):
                unknown.append(node.op_type)
            break
        value = constants[others[0]]
        if node.op_type in ("Mul", "Div"):
            if not value.all():
                break
            by = value if node.op_type == "Mul" else 1 / value
            factor, shift = factor * by, shift * by
        else:
            shift = shift + (value if node.op_type == "Add" else -value)
        name = node.output[0]
    return float(np.mean(factor)), float(np.mean(shift)), tuple(unknown)


def _mixes_colours(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    """Whether a convolution makes three channels of three: a normalisation, or other colours."""
    weights = next(
        (t for t in model.graph.initializer if node.op_type == "Conv" and t.name == node.input[1]), None
    )
    return weights is not None and list(weights.dims) in ([3, 3, 1, 1], [3, 1, 1, 1])


def _small_constants(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """Floating-point initialisers of one or three numbers, by name."""
    from onnx import numpy_helper

    small = [tensor for tensor in model.graph.initializer if np.prod(tensor.dims) in (1, 3)]
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in small}
    return {
        name: value.astype(np.float64).ravel() for name, value in values.items() if value.dtype.kind == "f"
    }
