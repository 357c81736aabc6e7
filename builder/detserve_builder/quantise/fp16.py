"""The network's own layers in fp16 by explicit casts, and those that measuring keeps in fp32.

Every tensor has one type, so a strongly typed TensorRT network computes what is written. The converters of
onnxconverter-common and ONNX Runtime round the graph's outputs to fp16 on the way, which moves a box by a
quarter of a pixel; here nothing behind the network's last layer is touched.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np

from detserve_builder.graph.layers import OWN_PREFIX
from detserve_builder.graph.network import WEIGHTED, is_weighted, layers, own_layers
from detserve_builder.precision.sensitivity import Probe, sensitivity
from detserve_builder.quantise.statistics import Statistics

if TYPE_CHECKING:
    import onnx

LARGEST = 65504.0
_HEADROOM = 2.0  # pictures to come may drive a tensor further than those calibrated with
_MAX_HARM = 0.01
_FLOAT16 = (
    *WEIGHTED,
    *(
        "Add",
        "AveragePool",
        "BatchNormalization",
        "Clip",
        "Concat",
        "Constant",
        "Div",
        "Elu",
        "Erf",
        "Exp",
        "Gelu",
    ),
    *(
        "Flatten",
        "Gather",
        "GlobalAveragePool",
        "HardSigmoid",
        "HardSwish",
        "LayerNormalization",
        "LeakyRelu",
    ),
    *(
        "MaxPool",
        "Mul",
        "PRelu",
        "Pad",
        "ReduceMean",
        "Relu",
        "Reshape",
        "Resize",
        "Sigmoid",
        "Slice",
        "Softmax",
    ),
    *("Split", "Sqrt", "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze"),
)
_FLOAT_BY_DEFINITION = {"Resize": (1, 2)}  # inputs that the operator takes in fp32 whatever the data


def convertible_nodes(model: onnx.ModelProto) -> list[str]:
    """Names of the network's own nodes up to its last weighted layers, in order of execution.

    What came quantised stays, as does what a runtime makes one integer kernel of with it.
    """
    in_integers = _in_integers(model)
    constants = {initializer.name for initializer in model.graph.initializer}
    before: set[str] = set()
    names = []
    for node in reversed(model.graph.node):
        if is_weighted(node, constants) or before.intersection(node.output):
            before.update(node.input)
            own = node.op_type in _FLOAT16 and not node.name.startswith(OWN_PREFIX)
            if own and node.name not in in_integers:
                names.append(node.name)
    return names[::-1]


def _in_integers(model: onnx.ModelProto) -> set[str]:
    """Names of the layers that came quantised, and of what stands between them and a QuantizeLinear."""
    came = own_layers(model)
    read = {node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    before = {node.name for node in model.graph.node if read.intersection(node.output)}
    return before.difference(came.floats).union(came.quantised)


def overflowing_nodes(model: onnx.ModelProto, nodes: Collection[str], statistics: Statistics) -> list[str]:
    """Those of ``nodes`` around a tensor that came within a factor of two of what fp16 can hold."""
    magnitude = np.maximum(np.abs(statistics.low), np.abs(statistics.high))
    large = {name for name, m in zip(statistics.names, magnitude, strict=True) if m * _HEADROOM > LARGEST}
    return [
        node.name
        for node in model.graph.node
        if node.name in set(nodes) and large.intersection((*node.input, *node.output))
    ]


def half_nodes(
    model: onnx.ModelProto, statistics: Statistics, probe: Probe
) -> tuple[list[str], Mapping[str, str]]:
    """The nodes to compute in fp16, and why each other one stays in fp32.

    What overflows stays first; then, while the detections of the calibration pictures suffer, the layers that
    measure as the most harmful.
    """
    nodes = convertible_nodes(model)
    kept = dict.fromkeys(overflowing_nodes(model, nodes, statistics), "overflow")
    half = [name for name in nodes if name not in kept]
    if probe.harm(to_half(model, half)) <= _MAX_HARM:
        return half, kept
    for layer in most_harmful(model, half, probe):
        kept.update(dict.fromkeys(layer, "error"))
        half = [name for name in half if name not in kept]
        if probe.harm(to_half(model, half)) <= _MAX_HARM:
            break
    return half, kept


def most_harmful(model: onnx.ModelProto, nodes: Collection[str], probe: Probe) -> list[list[str]]:
    """``nodes`` by layer, first the layer that does the most harm when it alone computes in fp16."""
    groups = layers(model, nodes)
    return [groups[layer] for layer in sensitivity(list(groups), lambda n: to_half(model, groups[n]), probe)]


def to_half(model: onnx.ModelProto, nodes: Collection[str]) -> onnx.ModelProto:
    """``model`` (left as it is) with ``nodes`` in fp16 and casts where fp32 and fp16 meet."""
    import onnx

    half = onnx.ModelProto()
    half.CopyFrom(model)
    conversion = _Conversion(half, set(nodes))
    converted = [made for node in model.graph.node for made in conversion.of(node)]
    del half.graph.node[:], half.graph.value_info[:]
    half.graph.node.extend(converted)
    half.graph.initializer.extend(conversion.initializers)
    read = {name for node in half.graph.node for name in node.input}
    unread = [initializer for initializer in half.graph.initializer if initializer.name not in read]
    for initializer in unread:
        half.graph.initializer.remove(initializer)
    half = onnx.shape_inference.infer_shapes(half, strict_mode=True)
    onnx.checker.check_model(half)
    return half


class _Conversion:
    """Which tensors are fp16 so far, and the casts and constants made once for all readers."""

    def __init__(self, model: onnx.ModelProto, nodes: set[str]) -> None:
        from onnx import TensorProto, numpy_helper

        described = (*model.graph.value_info, *model.graph.input, *model.graph.output)
        self.floats = {d.name for d in described if d.type.tensor_type.elem_type == TensorProto.FLOAT}
        self.constants = {
            initializer.name: numpy_helper.to_array(initializer)
            for initializer in model.graph.initializer
            if initializer.data_type == TensorProto.FLOAT
        }
        self.nodes = nodes
        self.outputs = {output.name for output in model.graph.output}
        self.half: dict[str, str] = {}  # tensor -> its name in fp16
        self.single: set[str] = set()  # tensors that an fp16 node makes, cast back already
        self.made_half: set[str] = set()
        self.initializers: list[onnx.TensorProto] = []

    def of(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The node as it will be, behind the casts of its inputs."""
        import onnx

        converted = onnx.NodeProto()
        converted.CopyFrom(node)
        if node.name not in self.nodes:
            return [*self._back_to_single(node.input), converted]
        stay = _FLOAT_BY_DEFINITION.get(node.op_type, ())
        casts = self._back_to_single([node.input[index] for index in stay if index < len(node.input)])
        for index, name in enumerate(node.input):
            if name and index not in stay and (name in self.floats or name in self.constants):
                casts += self._to_half(name)
                converted.input[index] = self.half[name]
        for index, name in enumerate(node.output):
            if name in self.floats:
                converted.output[index] = self.half[name] = f"{name}_fp16"
                self.made_half.add(name)
        if node.op_type == "Constant":
            _halve_constant(converted)
        ends = [name for name in node.output if name in self.outputs]
        return [*casts, converted, *self._back_to_single(ends)]

    def _to_half(self, name: str) -> list[onnx.NodeProto]:
        from onnx import TensorProto, helper, numpy_helper

        if name in self.half:
            return []
        self.half[name] = f"{name}_fp16"
        if name in self.constants:
            values = np.clip(self.constants[name], -LARGEST, LARGEST).astype(np.float16)
            self.initializers.append(numpy_helper.from_array(values, self.half[name]))
            return []
        cast = helper.make_node(
            "Cast", [name], [self.half[name]], f"{OWN_PREFIX}to_fp16/{name}", to=TensorProto.FLOAT16
        )
        return [cast]

    def _back_to_single(self, names: Collection[str]) -> list[onnx.NodeProto]:
        from onnx import TensorProto, helper

        wanted = [name for name in dict.fromkeys(names) if name in self.made_half and name not in self.single]
        self.single.update(wanted)
        return [
            helper.make_node(
                "Cast", [self.half[name]], [name], f"{OWN_PREFIX}to_fp32/{name}", to=TensorProto.FLOAT
            )
            for name in wanted
        ]


def _halve_constant(node: onnx.NodeProto) -> None:
    from onnx import TensorProto, numpy_helper

    for attribute in node.attribute:
        if attribute.name == "value" and attribute.t.data_type == TensorProto.FLOAT:
            values = np.clip(numpy_helper.to_array(attribute.t), -LARGEST, LARGEST).astype(np.float16)
            attribute.t.CopyFrom(numpy_helper.from_array(values))
