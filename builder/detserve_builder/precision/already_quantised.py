"""A network that came quantised, by its training or its exporter: what it is, and what that costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from detserve_builder.graph.network import named_nodes, own_layers
from detserve_builder.graph.plain import fold_weights
from detserve_builder.precision.speed import THREADS, interleaved
from detserve_builder.steps.detserve_detector import open_session

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

_ROUNDS = 10
_SLOWER = 1.1


def as_it_came(model: onnx.ModelProto) -> str | None:
    """What of the network's own layers is not in fp32 before any pass, for the record; None where all is."""
    from onnx import TensorProto

    named = named_nodes(model)
    layers = own_layers(named)
    if layers.quantised:
        return layers.as_it_came
    halves = {
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    }
    weights = {node.name: node.input[1] for node in named.graph.node if node.name in set(layers.floats)}
    count = len(halves.intersection(weights.values()))
    return f"{count} of {len(layers.every)} layers have 16-bit float weights as they came" if count else None


def without_quantisation(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """The float network that the Q/DQ nodes of ``model`` (left as it is) were put into.

    None where there is none to be had: operators on integers, or nodes between Q and DQ.
    """
    floats = named_nodes(model)
    if own_layers(floats).kind not in ("Q/DQ", "16-bit Q/DQ"):
        return None
    constants = {tensor.name: tensor for tensor in floats.graph.initializer}
    makers = {name: node for node in floats.graph.node for name in node.output}
    for node in floats.graph.node:
        maker = makers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if maker is None:
            continue
        if maker.op_type != "QuantizeLinear":
            return None
        node.op_type = "Relu" if _cuts_negative(maker, constants) else "Identity"
        node.domain = ""
        node.input[:] = maker.input[:1]
        del node.attribute[:]
    fold_weights(floats, quantised=True)
    return floats


def _cuts_negative(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether QuantizeLinear has no room below zero: quantisers let it stand for the Relu that was there."""
    from onnx import numpy_helper

    if len(node.input) < 3 or node.input[2] not in constants:
        return len(node.input) < 3  # UINT8 with zero point 0
    point = numpy_helper.to_array(constants[node.input[2]])
    return bool(point.dtype.kind in "iu" and (point == np.iinfo(point.dtype).min).all())


def slower_than_floats(model: onnx.ModelProto, images: NDArray[np.uint8]) -> str | None:
    """A sentence where the network that came with Q/DQ takes longer than its float original, else None.

    On ONNX Runtime at batch 1 and one thread; ``images`` uint8 [P,H,W,3].
    """
    floats = without_quantisation(model)
    if floats is None:
        return None
    sessions = [open_session(made.SerializeToString(), THREADS) for made in (floats, model)]
    speed = interleaved(sessions[0], sessions[1], [image[None] for image in images], rounds=_ROUNDS)
    if speed.speedup > 1 / _SLOWER:
        return None
    signed = "signed activations, which ONNX Runtime computes slowly" if _signed(model) else "Q/DQ nodes"
    return (
        f"the network came with {signed}: it takes {speed.candidate_ms:.1f} ms, its float original "
        f"{speed.float_ms:.1f} ms; export it with unsigned activations, or export the float network and "
        "build it with --precision int8"
    )


def _signed(model: onnx.ModelProto) -> bool:
    from onnx import TensorProto

    points = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    quantisers = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    return any(points.get(name) == TensorProto.INT8 for node in quantisers for name in node.input[2:3])
