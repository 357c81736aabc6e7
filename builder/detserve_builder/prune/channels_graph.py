"""Which channels of a network must go together, traced node by node, and which cannot go at all.

Every channel of a feature map is made by one filter of a convolution. Sums, products, depthwise layers and
what works on each channel by itself tie channels to one another; Concat, Split and Slice move them. A channel
that reaches an operator not followed here (a Reshape, a matrix product, an output) is frozen with all that is
tied to it. The idea is that of DepGraph (Fang et al. 2023, arXiv:2301.12900), here for single channels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detserve_builder.graph.layers import OWN_PREFIX

if TYPE_CHECKING:
    import onnx

Ids = NDArray[np.int64]

_EACH_BY_ITSELF = (
    *("AveragePool", "BatchNormalization", "Cast", "Clip", "Dropout", "Elu", "Erf", "Exp"),
    *("GlobalAveragePool", "GlobalMaxPool", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "MaxPool"),
    *("Gelu", "Mish", "Neg", "PRelu", "Relu", "Resize", "Selu", "Sigmoid", "Softplus", "Sqrt", "Tanh"),
)
_PAIRWISE = ("Add", "Sub", "Mul", "Div", "Max", "Min")
_CHANNEL_AXIS = 1


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that are alike: made, carried and read by the same nodes.

    ``channels`` are their ids, in order. Each is removed alone, with all that is tied to it.
    """

    channels: Ids
    readers: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Coupling:
    """Ids of the channels of every feature map [N,C,h,w] by tensor; tied channels have one id.

    ``groups`` hold the ids that can be removed, in the order in which the network makes them.
    """

    channels: Mapping[str, Ids]
    groups: tuple[Group, ...]


def coupling(model: onnx.ModelProto) -> Coupling:
    """Trace the network of a prepared ``model`` whose nodes have their own names."""
    import onnx

    tracing = _Tracing(onnx.shape_inference.infer_shapes(model))
    for given in model.graph.input:
        tracing.give(given.name)
    for node in model.graph.node:
        tracing.follow(node)
    for output in model.graph.output:
        tracing.freeze(output.name)
    return tracing.result(model)


def is_depthwise(node: onnx.NodeProto, weight_shape: tuple[int, ...]) -> bool:
    """Whether a Conv makes each channel from the one of the same index."""
    groups = attribute(node, "group", 1)
    return bool(groups == weight_shape[0] and weight_shape[1] == 1 and groups > 1)


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Value of an attribute, or ``default``."""
    from onnx import helper

    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def channel_axis_of_constant(shape: tuple[int, ...], channels: int) -> int | None:
    """Which axis of a constant operand of a feature map [N,C,h,w] is C; None where it is the same for all.

    Raises ValueError for a constant that spans something else, such as the picture.
    """
    axis = len(shape) - 3
    if int(np.prod(shape)) == 1 or axis < 0 or shape[axis] == 1:
        return None  # broadcast over the channels, whatever it spans
    if shape[axis] != channels:
        raise ValueError
    return axis


@dataclass
class _Tracing:
    model: onnx.ModelProto
    parent: list[int] = field(default_factory=list)
    frozen: set[int] = field(default_factory=set)
    channels: dict[str, Ids] = field(default_factory=dict)

    def __post_init__(self) -> None:
        graph = self.model.graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.shapes = {
            value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in (*graph.value_info, *graph.input, *graph.output)
        }

    def follow(self, node: onnx.NodeProto) -> None:
        """Give the node's outputs their channels, or freeze what it reads."""
        made = None
        if not node.name.startswith(OWN_PREFIX):
            with suppress(ValueError, KeyError, IndexError):  # an input without channels, or not constant
                made = self._followed(node)
        if made is not None:
            self.channels.update(zip(node.output, made, strict=False))
            return
        for name in _read(node):
            self.freeze(name)
        for name in node.output:
            self.give(name)

    def freeze(self, name: str) -> None:
        """No channel of this tensor may go."""
        self.frozen.update(self.channels.get(name, ()))

    def give(self, name: str) -> None:
        """Channels of its own, which stay, to a tensor that nothing here makes."""
        ids = self._new(name, frozen=True)
        if ids is not None:
            self.channels[name] = ids

    def _followed(self, node: onnx.NodeProto) -> list[Ids] | None:
        if node.op_type == "Conv":
            return self._convolution(node)
        if node.op_type in _EACH_BY_ITSELF and self._parameters_are_constant(node):
            return [self.channels[node.input[0]]]
        if node.op_type in _PAIRWISE and len(node.input) == 2:
            return self._pair(node)
        if node.op_type == "Concat" and attribute(node, "axis") in (_CHANNEL_AXIS, -3):
            return [np.concatenate([self.channels[name] for name in node.input])]
        if node.op_type == "Concat" and attribute(node, "axis") in (2, 3, -1, -2):
            first, *others = [self.channels[name] for name in node.input]
            for other in others:
                self._tie(first, other)
            return [first]
        if node.op_type == "Split":
            return self._split(node)
        if node.op_type == "Slice":
            return self._slice(node)
        if node.op_type == "ReduceMean":
            axes = self._values(node.input[1]) if len(node.input) > 1 else attribute(node, "axes")
            spatial = axes is not None and {int(axis) % 4 for axis in axes} <= {2, 3}
            return [self.channels[node.input[0]]] if spatial and attribute(node, "keepdims", 1) else None
        if node.op_type == "Pad":
            pads = self._values(node.input[1])
            if len(node.input) < 4 and len(pads) == 8 and not (pads[1] or pads[5]):
                return [self.channels[node.input[0]]]
        return None

    def _convolution(self, node: onnx.NodeProto) -> list[Ids] | None:
        weight = tuple(self.constants[node.input[1]].dims)
        if len(weight) != 4 or any(name not in self.constants for name in node.input[2:] if name):
            return None
        if is_depthwise(node, weight):
            return [self.channels[node.input[0]]]
        if attribute(node, "group", 1) != 1 or node.input[0] not in self.channels:
            return None
        made = self._new(node.output[0])
        return None if made is None else [made]

    def _parameters_are_constant(self, node: onnx.NodeProto) -> bool:
        if node.op_type == "PRelu":
            shape = tuple(self.constants[node.input[1]].dims)
            channel_axis_of_constant(shape, len(self.channels[node.input[0]]))
        if node.op_type == "Resize" and attribute(node, "axes") is not None:
            return False
        return all(name in self.constants for name in node.input[1:] if name)

    def _pair(self, node: onnx.NodeProto) -> list[Ids] | None:
        one, other = node.input
        if other in self.constants or one in self.constants:
            tensor, constant = (one, other) if other in self.constants else (other, one)
            ids = self.channels[tensor]
            channel_axis_of_constant(tuple(self.constants[constant].dims), len(ids))
            return [ids]
        first, second = sorted((self.channels[one], self.channels[other]), key=len, reverse=True)
        if len(second) == 1 < len(first):  # one for all
            self.frozen.update(second.tolist())
            return [first]
        self._tie(first, second)
        return [first]

    def _split(self, node: onnx.NodeProto) -> list[Ids] | None:
        ids = self.channels[node.input[0]]
        if attribute(node, "axis", 0) not in (_CHANNEL_AXIS, -3):
            return [ids for _ in node.output] if attribute(node, "axis", 0) in (2, 3, -1, -2) else None
        sizes = [self.shapes[name][_CHANNEL_AXIS] for name in node.output]
        constant = len(node.input) < 2 or not node.input[1] or node.input[1] in self.constants
        if sum(sizes) != len(ids) or not constant:
            return None
        return list(np.split(ids, np.cumsum(sizes)[:-1]))

    def _slice(self, node: onnx.NodeProto) -> list[Ids] | None:
        ids = self.channels[node.input[0]]
        axes = [int(axis) % 4 for axis in self._values(node.input[3])]
        if _CHANNEL_AXIS not in axes:
            return [ids] if 0 not in axes else None
        start, end = (int(self._values(node.input[index])[0]) for index in (1, 2))
        step = int(self._values(node.input[4])[0]) if len(node.input) > 4 else 1
        return [ids[start:end]] if axes == [_CHANNEL_AXIS] and step == 1 else None

    def _values(self, name: str) -> NDArray[Any]:
        from onnx import numpy_helper

        return np.asarray(np.atleast_1d(numpy_helper.to_array(self.constants[name])))

    def _new(self, name: str, *, frozen: bool = False) -> Ids | None:
        shape = self.shapes.get(name, [])
        if len(shape) != 4 or shape[_CHANNEL_AXIS] <= 0:
            return None
        ids = np.arange(len(self.parent), len(self.parent) + shape[_CHANNEL_AXIS])
        self.parent.extend(ids.tolist())
        if frozen:
            self.frozen.update(ids.tolist())
        return ids

    def _root(self, channel: int) -> int:
        while self.parent[channel] != channel:
            self.parent[channel] = self.parent[self.parent[channel]]
            channel = self.parent[channel]
        return channel

    def _tie(self, first: Ids, second: Ids) -> None:
        for one, other in zip(first.tolist(), second.tolist(), strict=True):
            roots = sorted((self._root(one), self._root(other)))
            self.parent[roots[1]] = roots[0]

    def result(self, model: onnx.ModelProto) -> Coupling:
        roots = np.array([self._root(channel) for channel in range(len(self.parent))], np.int64)
        channels = {name: roots[ids] for name, ids in self.channels.items()}
        frozen = {int(roots[channel]) for channel in self.frozen}
        return Coupling(channels, tuple(_groups(model, channels, frozen)))


def _groups(model: onnx.ModelProto, channels: Mapping[str, Ids], frozen: set[int]) -> Iterable[Group]:
    """Channels by what makes, ties and reads them, how many times each."""
    where: dict[int, list[str]] = defaultdict(list)
    readers: dict[str, None] = {}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        for name in node.output:
            for channel in channels.get(name, ()):
                where[int(channel)].append(f"made by {node.name}")
        if mixes_channels(node, constants) and node.input[0] in channels:
            readers[node.name] = None
            for channel in channels[node.input[0]]:
                where[int(channel)].append(node.name)
    alike: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for channel, nodes in sorted(where.items()):
        if channel not in frozen:
            alike[tuple(nodes)].append(channel)
    for places, members in alike.items():
        read_by = tuple(name for name in dict.fromkeys(places) if name in readers)
        if read_by:
            yield Group(np.array(members, np.int64), read_by)


def mixes_channels(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether ``node`` is a convolution of all channels, with constant weights."""
    return node.op_type == "Conv" and attribute(node, "group", 1) == 1 and node.input[1] in constants


def _read(node: onnx.NodeProto) -> Iterable[str]:
    """What a node takes, and what its branches take from around them."""
    yield from node.input
    for held in node.attribute:
        if held.HasField("g"):
            for inner in held.g.node:
                yield from _read(inner)
            yield from (output.name for output in held.g.output)
