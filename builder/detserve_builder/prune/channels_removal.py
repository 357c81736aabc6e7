"""Channels out of a graph: the constants of every node that makes, carries or reads them become shorter."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detserve_builder.prune.channels_graph import (
    Coupling,
    attribute,
    channel_axis_of_constant,
    is_depthwise,
)

if TYPE_CHECKING:
    import onnx

_PAIRWISE = ("Add", "Sub", "Mul", "Div", "Max", "Min", "PRelu")


def without_channels(model: onnx.ModelProto, coupled: Coupling, removed: Collection[int]) -> onnx.ModelProto:
    """``model`` (left as it is) without the channels whose ids are ``removed``.

    Nothing makes up for them: :mod:`detserve_builder.prune.channels` does.
    """
    import onnx

    smaller = onnx.ModelProto()
    smaller.CopyFrom(model)
    gone = np.array(sorted(removed), np.int64)
    removal = _Removal(smaller, {name: ~np.isin(ids, gone) for name, ids in coupled.channels.items()})
    for node in smaller.graph.node:
        removal.apply(node)
    read = {name for node in smaller.graph.node for name in node.input}
    read |= {name for node in smaller.graph.node for name in _read_in_branches(node)}
    for unread in [tensor for tensor in smaller.graph.initializer if tensor.name not in read]:
        smaller.graph.initializer.remove(unread)
    del smaller.graph.value_info[:]
    smaller = onnx.shape_inference.infer_shapes(smaller, strict_mode=True)
    onnx.checker.check_model(smaller)
    return smaller


@dataclass
class _Removal:
    """``keeps`` says of every channel of a tensor whether it stays."""

    model: onnx.ModelProto
    keeps: dict[str, NDArray[np.bool_]]
    constants: dict[str, onnx.TensorProto] = field(init=False)

    def __post_init__(self) -> None:
        self.constants = {tensor.name: tensor for tensor in self.model.graph.initializer}

    def apply(self, node: onnx.NodeProto) -> None:
        touched = [name for name in (*node.input, *node.output) if not self._whole(name)]
        if not touched:
            return
        if node.op_type == "Conv":
            self._convolution(node)
        elif node.op_type == "BatchNormalization":
            for index in range(1, 5):
                self._replace(node, index, self._value(node, index)[self.keeps[node.input[0]]])
        elif node.op_type in _PAIRWISE:
            self._operands(node)
        elif node.op_type == "Split" and attribute(node, "axis", 0) in (1, -3):
            sizes = [int(self.keeps[name].sum()) for name in node.output]
            for equal in [held for held in node.attribute if held.name == "num_outputs"]:
                node.attribute.remove(equal)
            if len(node.input) < 2:
                node.input.append("")
            self._replace(node, 1, np.array(sizes, np.int64))
        elif node.op_type == "Slice":
            self._slice(node)
        elif node.op_type == "Resize" and len(node.input) > 3 and node.input[3]:
            size = self._value(node, 3).copy()
            size[1] = self.keeps[node.output[0]].sum()
            self._replace(node, 3, size)

    def _whole(self, name: str) -> bool:
        return name not in self.keeps or bool(self.keeps[name].all())

    def _convolution(self, node: onnx.NodeProto) -> None:
        weight = self._value(node, 1)
        made = self.keeps[node.output[0]]
        if is_depthwise(node, weight.shape):
            for held in node.attribute:
                if held.name == "group":
                    held.i = int(made.sum())
            weight = weight[made]
        else:
            weight = weight[made][:, self.keeps[node.input[0]]]
        self._replace(node, 1, weight)
        if len(node.input) > 2 and node.input[2]:
            self._replace(node, 2, self._value(node, 2)[made])

    def _operands(self, node: onnx.NodeProto) -> None:
        keep = self.keeps[node.output[0]]
        for index, name in enumerate(node.input):
            if name in self.constants:
                value = self._value(node, index)
                axis = channel_axis_of_constant(value.shape, len(keep))
                if axis is not None:
                    self._replace(node, index, value.compress(keep, axis=axis))

    def _slice(self, node: onnx.NodeProto) -> None:
        axes = [int(axis) % 4 for axis in np.atleast_1d(self._value(node, 3))]
        if axes != [1]:
            return
        keep = self.keeps[node.input[0]]
        for index in (1, 2):
            value = self._value(node, index)
            bound = slice(int(value.ravel()[0]), None).indices(len(keep))[0]
            self._replace(node, index, np.full(value.shape, keep[:bound].sum(), value.dtype))

    def _value(self, node: onnx.NodeProto, index: int) -> NDArray[Any]:
        from onnx import numpy_helper

        return np.asarray(numpy_helper.to_array(self.constants[node.input[index]]))

    def _replace(self, node: onnx.NodeProto, index: int, value: NDArray[Any]) -> None:
        """Under a name of the node's own: others may read the constant too."""
        from onnx import numpy_helper

        name = f"{node.name}_kept_{index}"
        made = numpy_helper.from_array(np.ascontiguousarray(value), name)
        self.model.graph.initializer.append(made)
        self.constants[name] = made
        node.input[index] = name


def _read_in_branches(node: onnx.NodeProto) -> Collection[str]:
    read: set[str] = set()
    for held in node.attribute:
        if held.HasField("g"):
            for inner in held.g.node:
                read.update(inner.input, _read_in_branches(inner))
            read.update(output.name for output in held.g.output)
    return read
