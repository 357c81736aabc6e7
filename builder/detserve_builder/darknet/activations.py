"""Darknet's activations as ONNX nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detserve_builder.darknet.cfg import Section
from detserve_builder.errors import BuildError
from detserve_builder.graph.layers import float32, layer

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

_SLOPE = 0.1  # of Darknet's leaky ReLU
_KNOWN = ("linear", "leaky", "relu", "relu6", "elu", "logistic", "tanh", "swish", "mish")


def activate(graph: gs.Graph, tensor: gs.Tensor, section: Section, default: str = "linear") -> gs.Tensor:
    """``tensor`` through the section's activation; raises :class:`BuildError` for one that is not known."""
    name = section.text("activation", default)
    if name == "linear":
        return tensor
    if name == "leaky":
        return layer(graph, "LeakyRelu", tensor, alpha=_SLOPE)
    if name == "relu6":
        return layer(graph, "Clip", tensor, float32(0), float32(6))
    if name == "swish":
        return layer(graph, "Mul", tensor, layer(graph, "Sigmoid", tensor))
    if name == "mish":
        return layer(graph, "Mul", tensor, layer(graph, "Tanh", layer(graph, "Softplus", tensor)))
    if name in _KNOWN:
        op = {"relu": "Relu", "elu": "Elu", "logistic": "Sigmoid", "tanh": "Tanh"}[name]
        return layer(graph, op, tensor)
    raise BuildError(f"{section.where}: activation={name} is not known; known are {', '.join(_KNOWN)}")
