"""A graph whose constants and shapes are those of one picture -> the same graph for any batch.

Each tensor behind the picture is followed with the place of the batch in it: an axis, and how many elements
of one picture are in that axis behind the batch (heads, windows). Memory order keeps that place through every
Reshape. Constants that meet such a tensor are repeated for every picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from detserve_builder.errors import BuildError
from detserve_builder.graph.layers import int64, layer
from detserve_builder.graph.running import run
from detserve_builder.preparation.batch import BATCH, NotBatchable

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs
    from numpy.typing import NDArray

Shape = tuple[int, ...]
_BRANCHES = ("If", "Loop", "Scan", "SequenceMap")


@dataclass(frozen=True)
class Place:
    """Where the batch is: ``axis`` has outer * N * ``inner`` elements."""

    axis: int
    inner: int = 1


@dataclass
class Followed:
    """A graph, the shapes of its tensors for one picture, and the places found so far, by name."""

    graph: gs.Graph
    shapes: Mapping[str, Shape]
    places: dict[str, Place] = field(default_factory=dict)

    def shape(self, tensor: gs.Tensor) -> Shape:
        """For one picture."""
        known = tuple(tensor.values.shape) if hasattr(tensor, "values") else self.shapes.get(tensor.name)
        if known is None or 0 in known:
            raise NotBatchable(f"the size of {tensor.name} for one picture is not known")
        return known

    def place(self, tensor: gs.Tensor) -> Place | None:
        """None for what does not depend on the picture."""
        return self.places.get(tensor.name)

    def value(self, tensor: gs.Tensor) -> NDArray[Any] | None:
        """What a tensor holds whatever the picture is, or None."""
        import onnx_graphsurgeon as gs

        if hasattr(tensor, "values"):
            return np.asarray(tensor.values)
        nodes, waiting = {}, list(tensor.inputs)
        while waiting:
            node = waiting.pop()
            if id(node) not in nodes:
                nodes[id(node)] = node
                waiting += [maker for given in node.inputs for maker in given.inputs]
        if not nodes or any(self.place(given) for node in nodes.values() for given in node.inputs):
            return None
        part = gs.Graph(nodes=list(nodes.values()), outputs=[tensor], opset=self.graph.opset).toposort()
        return run(gs.export_onnx(part, do_type_check=False), {})[tensor.name]

    def repeated(self, tensor: gs.Tensor, place: Place) -> gs.Tensor:
        """A constant ``tensor`` with every picture's copy at ``place``."""
        shape = self.shape(tensor)
        outer = shape[place.axis] // place.inner
        before, behind = shape[: place.axis], shape[place.axis + 1 :]
        apart = layer(self.graph, "Reshape", tensor, int64(*before, outer, 1, place.inner, *behind))
        ones = [int64(*[1] * (len(sizes) + 1)) for sizes in (before, behind)]
        copies = layer(self.graph, "Concat", ones[0], self.pictures(), ones[1], axis=0)
        expanded = layer(self.graph, "Expand", apart, copies)
        return layer(self.graph, "Reshape", expanded, int64(*before, -1, *behind))

    def apart(self, tensor: gs.Tensor, rank: int) -> gs.Tensor:
        """``tensor`` with the batch in its own axis before all others, which are ``rank``."""
        place, shape = self.places[tensor.name], self.shape(tensor)
        before, behind = shape[: place.axis], shape[place.axis + 1 :]
        outer = shape[place.axis] // place.inner
        if prod(before) * outer > 1:
            tensor = layer(self.graph, "Reshape", tensor, int64(*before, outer, -1, place.inner, *behind))
            others = [axis for axis in range(len(shape) + 2) if axis != place.axis + 1]
            tensor = layer(self.graph, "Transpose", tensor, perm=[place.axis + 1, *others])
        ones = [1] * (rank - len(shape))
        return layer(self.graph, "Reshape", tensor, int64(-1, *ones, *shape))

    def at(self, tensor: gs.Tensor, place: Place) -> gs.Tensor:
        """``tensor`` with the batch at ``place``: moved there, or repeated where it is a constant."""
        if self.place(tensor) == place:
            return tensor
        if self.place(tensor) is None:
            return self.repeated(tensor, place)
        shape = self.shape(tensor)
        before, behind = shape[: place.axis], shape[place.axis + 1 :]
        outer = shape[place.axis] // place.inner
        tensor = self.apart(tensor, len(shape))
        if prod(before) * outer > 1:
            tensor = layer(self.graph, "Reshape", tensor, int64(-1, *before, outer, place.inner, *behind))
            left, right = range(1, place.axis + 2), range(place.axis + 2, len(shape) + 2)
            tensor = layer(self.graph, "Transpose", tensor, perm=[*left, 0, *right])
        return layer(self.graph, "Reshape", tensor, int64(*before, -1, *behind))

    def pictures(self) -> gs.Tensor:
        """N, int64 [1]."""
        size = layer(self.graph, "Shape", self.graph.inputs[0])
        return layer(self.graph, "Slice", size, int64(0), int64(1), int64(0))


def free_batch_along_axes(graph: gs.Graph, shapes: Mapping[str, Shape]) -> None:
    """Make the batch dimension of the input symbolic, in place, and what one picture's size is written into.

    ``shapes`` are those of every tensor at batch 1. Raises NotBatchable with the node that no rule brings the
    batch through.
    """
    from detserve_builder.preparation.batch_rules import RULES

    image = graph.inputs[0]
    followed = Followed(graph, shapes, {image.name: Place(0)})
    for node in list(graph.nodes):
        if node.op in _BRANCHES:
            raise NotBatchable(f"this node has branches: {node.op} {node.name!r}")
        if not any(tensor.name in followed.places for tensor in node.inputs):
            continue
        if node.op in ("Shape", "Size"):
            _hold(followed, node)
            continue
        rule, outputs = RULES.get(node.op), list(node.outputs)
        place = rule(followed, node) if rule else None
        if place is None:
            raise NotBatchable(f"this node is written for one picture: {node.op} {node.name!r}")
        followed.places.update({output.name: place for output in outputs if output.name})
    graph.outputs = [_in_front(followed, output) for output in graph.outputs]
    image.shape = [BATCH, *image.shape[1:]]
    for tensor in graph.tensors().values():
        if not hasattr(tensor, "values") and tensor is not image:
            tensor.shape = None


def shapes_of(model: onnx.ModelProto) -> dict[str, Shape]:
    """The shape of every tensor for one picture; what inference leaves open is measured."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    graph = inferred.graph
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
        if all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim)
        and value.type.tensor_type.HasField("shape")
    }
    image = graph.input[0]
    shapes[image.name] = (1, *shapes.get(image.name, (1, *_fixed(image)))[1:])
    open_ones = [name for node in model.graph.node for name in node.output if name and name not in shapes]
    if not open_ones:
        return shapes
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in open_ones)
    try:
        measured = run(probe, np.ones(shapes[image.name], np.float32))
    except BuildError:
        return shapes
    return shapes | {name: np.shape(value) for name, value in measured.items()}


def _fixed(value: onnx.ValueInfoProto) -> Shape:
    return tuple(dim.dim_value for dim in list(value.type.tensor_type.shape.dim)[1:])


def _in_front(followed: Followed, output: gs.Tensor) -> gs.Tensor:
    """An output with the batch as its first dimension, under the name it has."""
    if followed.shape(output)[:1] != (1,):
        raise NotBatchable(f"the output {output.name} is not one row a picture")
    found = followed.at(output, Place(0))
    if found is not output:
        found.name, output.name, found.dtype = output.name, f"{output.name}_elsewhere", output.dtype
    return found


def _hold(followed: Followed, node: gs.Node) -> None:
    """The size of a tensor is that of one picture's, for all that is computed of it."""
    import onnx_graphsurgeon as gs

    shape = followed.shape(node.inputs[0])
    value = (
        np.array(prod(shape))
        if node.op == "Size"
        else np.array(shape[slice(node.attrs.get("start"), node.attrs.get("end"))])
    )
    constant = gs.Constant(f"{node.outputs[0].name}_of_one", value.astype(np.int64))
    for reader in list(node.outputs[0].outputs):
        reader.inputs = [constant if given is node.outputs[0] else given for given in reader.inputs]


def relocated(shape: Sequence[int], place: Place, target: Sequence[int]) -> Place | None:
    """The place of the batch after a Reshape from ``shape`` to ``target``, both of one picture."""
    behind = place.inner * prod(shape[place.axis + 1 :])
    within, after = [], 1
    for axis in range(len(target) - 1, -1, -1):
        span = after * target[axis]
        if after <= behind <= span and behind % after == 0 and span % behind == 0:
            within.append(Place(axis, behind // after))
        after = span
    alone = [found for found in within if target[found.axis] == 1]
    if not within:
        return None
    right, left = within[0], within[-1]
    if alone or left == right:
        return alone[-1] if alone else right
    # Between two axes: one that is split takes the batch along (heads), one that stays whole does not.
    next_size = place.inner if place.inner > 1 else next(iter(shape[place.axis + 1 :]), 1)
    return right if target[right.axis] < next_size else left


def moved(place: Place, axis: int) -> Place:
    """The same place in another axis."""
    return replace(place, axis=axis)
