"""What lies between a graph's output and the layers that predict it, read off the ONNX nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

_LAYERS = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
_METADATA = frozenset({"Shape", "Constant", "ConstantOfShape", "Range"})
_LAYOUT = frozenset(
    {
        "Cast",
        "Concat",
        "DequantizeLinear",
        "Flatten",
        "Identity",
        "QuantizeLinear",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
_ACTIVATIONS = frozenset({"Sigmoid", "Softmax"})


@dataclass(frozen=True)
class Trace:
    """The way back from one output to the first layers with weights.

    ``ops`` are the operations passed, ``layers`` the operations it ends at, ``constants`` the float arrays
    that take part, ``activated`` whether a sigmoid or softmax is the last that changes values.
    """

    ops: frozenset[str]
    layers: frozenset[str]
    constants: tuple[NDArray[np.float64], ...]
    activated: bool

    @property
    def only_layout(self) -> bool:
        """Nothing on the way changes a value."""
        return self.ops <= _LAYOUT


def trace(model: onnx.ModelProto, output: str) -> Trace:
    """Walk back from ``output`` of ``model`` until Conv, MatMul or Gemm."""
    from onnx import numpy_helper

    producers = {name: node for node in model.graph.node for name in node.output}
    constants = float_constants(model)
    ops: set[str] = set()
    layers: set[str] = set()
    met: dict[str, NDArray[np.float64]] = {}
    waiting, seen = [output], {output}
    while waiting:
        name = waiting.pop()
        if name in constants:
            met[name] = np.asarray(numpy_helper.to_array(constants[name]), np.float64)
        node = producers.get(name)
        if node is None or node.op_type in _METADATA:
            continue
        if node.op_type in _LAYERS:
            layers.add(node.op_type)
            continue
        ops.add(node.op_type)
        of_data = node.input[:1] if node.op_type in _LAYOUT - {"Concat"} else node.input
        fresh = [given for given in of_data if given and given not in seen]
        seen.update(fresh)
        waiting += fresh
    return Trace(frozenset(ops), frozenset(layers), tuple(met.values()), _activated(producers, output))


def float_constants(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Float initialisers and Constant nodes by name, in the order of the file."""
    from onnx import TensorProto

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    floats = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
    return {name: tensor for name, tensor in tensors.items() if tensor.data_type in floats}


def _activated(producers: dict[str, onnx.NodeProto], output: str) -> bool:
    node = producers.get(output)
    while node is not None and node.op_type in _LAYOUT:
        node = producers.get(node.input[0])
    return node is not None and node.op_type in _ACTIVATIONS
