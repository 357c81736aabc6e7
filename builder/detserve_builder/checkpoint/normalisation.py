"""Normalisation that a network does itself, directly behind its input, and must not get twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from detserve_builder.checkpoint.checkpoint import tensors

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

_MOVES = {"Cast", "Identity", "Transpose", "Squeeze", "Unsqueeze"}
_SPREAD = (
    0.3,
    12.0,
)  # a normalised network input spans about this much: 1 for 0..1, 2 for -1..1, 4.4 for ImageNet's
_CENTRED = 20.0  # a mean of pixels is at least this, a mean of shares never


def pixel_scale(model: onnx.ModelProto) -> float | None:
    """What a pixel 0..255 is multiplied with before ``model``, the file as it came, normalises it itself.

    1 for a network that takes bytes, or that divides 0..255 down; 1/255 for one that takes 0..1 and goes on
    from there. None where it does nothing of the kind.
    """
    picture = next((info for info in tensors(model, of_outputs=False) if len(info.shape) in (3, 4)), None)
    if picture is None:
        return None
    if picture.dtype in ("UINT8", "INT8", "INT32"):
        return 1.0
    factor, shift = _affine(model, picture.name)
    if _SPREAD[0] <= 255 * factor <= _SPREAD[1] or (factor == 1 and abs(shift) >= _CENTRED):
        return 1.0
    goes_on = (factor != 1 or shift != 0) and _SPREAD[0] <= factor <= _SPREAD[1]
    return 1 / 255 if goes_on else None


def _affine(model: onnx.ModelProto, name: str) -> tuple[float, float]:
    """Mean factor and shift of the chain of Mul, Div, Add and Sub by constants that begins at ``name``."""
    constants = _small_constants(model)
    factor, shift = np.ones(1), np.zeros(1)
    while True:
        readers = [node for node in model.graph.node if name in node.input]
        if len(readers) != 1:
            break
        node = readers[0]
        if node.op_type in _MOVES and node.input[0] == name:
            name = node.output[0]
            continue
        others = [given for given in node.input if given != name]
        if node.op_type not in ("Mul", "Div", "Add", "Sub") or len(others) != 1 or others[0] not in constants:
            break
        if node.op_type in ("Div", "Sub") and node.input[0] != name:
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
    return float(np.mean(factor)), float(np.mean(shift))


def _small_constants(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """Constants of one or three numbers, by name."""
    from onnx import numpy_helper

    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = node.attribute[0].t
    values = {name: numpy_helper.to_array(t) for name, t in found.items() if np.prod(t.dims) in (1, 3)}
    return {
        name: value.astype(np.float64).ravel() for name, value in values.items() if value.dtype.kind == "f"
    }
