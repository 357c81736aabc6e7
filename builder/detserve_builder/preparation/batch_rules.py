"""What each operator does to the place of the batch; a rule gives None where it does not know.

A rule takes the graph so far and a node, fixes the node where one picture's size is written into it, and
returns the place in its outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from detserve_builder.graph.layers import int64, layer
from detserve_builder.preparation.batch_axis import Followed, Place, moved, relocated

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs
    from numpy.typing import NDArray

Rule = Callable[[Followed, "gs.Node"], Place | None]


def _elementwise(followed: Followed, node: gs.Node) -> Place | None:
    """With broadcasting: counted from the right, every operand has the batch at the same place."""
    shapes = [followed.shape(given) if given.name else () for given in node.inputs]
    output = followed.shape(node.outputs[0])
    found = {
        (len(shape) - place.axis, place.inner, shape[place.axis])
        for given, shape in zip(node.inputs, shapes, strict=True)
        if (place := followed.place(given))
    }
    from_right, inner, size = next(iter(found))
    if len(found) != 1 or output[-from_right] != size:
        return _apart(followed, node)
    for index, (given, shape) in enumerate(zip(list(node.inputs), shapes, strict=True)):
        if followed.place(given) or len(shape) < from_right or shape[-from_right] == 1:
            continue
        node.inputs[index] = followed.repeated(given, Place(len(shape) - from_right, inner))
    return Place(len(output) - from_right, inner)


def _apart(followed: Followed, node: gs.Node) -> Place | None:
    """Operands with the batch at different places get it in its own axis, in front of all others."""
    target = followed.shape(node.outputs[0])
    if not target:
        return None
    node.inputs = [
        followed.apart(given, len(target)) if followed.place(given) else given for given in node.inputs
    ]
    return _merged(followed, node, Place(0, target[0]))


def _merged(followed: Followed, node: gs.Node, place: Place) -> Place:
    """``node`` gives the batch in its own axis, which joins the one behind it."""
    import onnx_graphsurgeon as gs

    output, sizes = node.outputs[0], list(followed.shape(node.outputs[0]))
    sizes[place.axis] = -1
    node.outputs = [gs.Variable(f"{output.name}_apart")]
    followed.graph.layer(op="Reshape", inputs=[node.outputs[0], int64(*sizes)], outputs=[output])
    return place


def _first_input(followed: Followed, node: gs.Node) -> Place | None:
    """Values change one by one; the other inputs are parameters."""
    return None if any(followed.place(given) for given in node.inputs[1:]) else followed.place(node.inputs[0])


def _away(followed: Followed, node: gs.Node, *axes: int) -> Place | None:
    """The first input's place, moved out of ``axes``, which the node works along; no other has one."""
    place, shape = followed.place(node.inputs[0]), followed.shape(node.inputs[0])
    if place is None or any(followed.place(given) for given in node.inputs[1:]):
        return None
    if place.axis in axes:
        free = next((axis for axis in range(len(shape)) if axis not in axes), None)
        if free is None:
            return None
        place = Place(free, shape[free])
        node.inputs[0] = followed.at(node.inputs[0], place)
    return place


def _pictures_first(followed: Followed, node: gs.Node) -> Place | None:
    """Convolutions, pools and the like: the first axis is that of pictures, whatever it was joined with."""
    return _away(followed, node, *range(1, len(followed.shape(node.inputs[0]))))


def _resize(followed: Followed, node: gs.Node) -> Place | None:
    place = _pictures_first(followed, node)
    if place is not None and len(node.inputs) > 3 and node.inputs[3].name and "axes" not in node.attrs:
        shape = followed.shape(node.outputs[0])
        pictures = layer(followed.graph, "Mul", followed.pictures(), int64(shape[0]))
        node.inputs[3] = layer(followed.graph, "Concat", pictures, int64(*shape[1:]), axis=0)
    return place


def _along(default: int, *, keeps: bool = True) -> Rule:
    """Operators along one axis; ``keeps`` says whether the axis stays."""

    def rule(followed: Followed, node: gs.Node) -> Place | None:
        axis = node.attrs.get("axis", default) % len(followed.shape(node.inputs[0]))
        place = _away(followed, node, axis)
        gone = not keeps and not node.attrs.get("keepdims", 1)
        return place and moved(place, place.axis - (gone and axis < place.axis))

    return rule


def _reduce(followed: Followed, node: gs.Node) -> Place | None:
    rank = len(followed.shape(node.inputs[0]))
    axes = node.attrs.get("axes") or (followed.value(node.inputs[1]) if len(node.inputs) > 1 else None)
    if axes is None:
        return None
    along = {int(axis) % rank for axis in axes}
    place = _away(followed, node, *along)
    gone = 0 if place is None or node.attrs.get("keepdims", 1) else sum(a < place.axis for a in along)
    return place and moved(place, place.axis - gone)


def _layer_norm(followed: Followed, node: gs.Node) -> Place | None:
    rank = len(followed.shape(node.inputs[0]))
    return _away(followed, node, *range(node.attrs.get("axis", -1) % rank, rank))


def _cumulative(followed: Followed, node: gs.Node) -> Place | None:
    axis = followed.value(node.inputs[1])
    return (
        None
        if axis is None
        else _away(followed, node, int(axis.item()) % len(followed.shape(node.inputs[0])))
    )


def _reshape(followed: Followed, node: gs.Node) -> Place | None:
    """Any node that changes a shape alone becomes a Reshape to the shape it has for one picture."""
    if followed.place(node.inputs[0]) is None:
        return None
    shape, target = followed.shape(node.inputs[0]), followed.shape(node.outputs[0])
    place = relocated(shape, followed.places[node.inputs[0].name], target)
    if place is None or 0 in target:
        return None
    node.op, node.attrs = "Reshape", {}
    sizes = [-1 if axis == place.axis else size for axis, size in enumerate(target)]
    node.inputs = [node.inputs[0], _held(node, int64(*sizes))]
    return place


def _transpose(followed: Followed, node: gs.Node) -> Place | None:
    place, rank = followed.places[node.inputs[0].name], len(followed.shape(node.inputs[0]))
    return moved(place, list(node.attrs.get("perm", range(rank - 1, -1, -1))).index(place.axis))


def _squeeze(followed: Followed, node: gs.Node) -> Place | None:
    place, shape = followed.places[node.inputs[0].name], followed.shape(node.inputs[0])
    axes = followed.value(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None or place.axis in [int(axis) % len(shape) for axis in axes]:
        return _reshape(followed, node)
    return moved(place, place.axis - sum(int(axis) % len(shape) < place.axis for axis in axes))


def _unsqueeze(followed: Followed, node: gs.Node) -> Place | None:
    place, axes = followed.places[node.inputs[0].name], followed.value(node.inputs[1])
    rank = len(followed.shape(node.outputs[0]))
    if axes is None:
        return None
    new = {int(axis) % rank for axis in axes}
    return moved(place, [axis for axis in range(rank) if axis not in new][place.axis])


def _joined(operands: Callable[[gs.Node], Sequence[int]], default: int) -> Rule:
    """Operators whose ``operands`` have one size along the batch, and which work along another axis."""

    def rule(followed: Followed, node: gs.Node) -> Place | None:
        indices = operands(node)
        axis = node.attrs.get("axis", default) % len(followed.shape(node.outputs[0]))
        places = [place for index in indices if (place := followed.place(node.inputs[index]))]
        place = min(
            (found for found in places if found.axis != axis), key=lambda found: found.axis, default=None
        )
        if place is None:
            return None
        for index in indices:
            node.inputs[index] = followed.at(node.inputs[index], place)
        return place

    return rule


def _grid_sample(followed: Followed, node: gs.Node) -> Place | None:
    place = Place(0, followed.shape(node.inputs[0])[0])
    node.inputs = [followed.at(given, place) for given in node.inputs]
    return place


def _indexed(followed: Followed, node: gs.Node) -> Place | None:
    """GatherND and ScatterND by constant indices into the first axes, the batch behind these."""
    data, (*spread, depth) = node.inputs[0], followed.shape(node.inputs[1])
    if followed.place(node.inputs[1]) or node.attrs.get("batch_dims"):
        return None
    in_rows = None if node.op == "GatherND" else node.inputs[2]
    place = followed.place(data)
    if place is None and in_rows is not None and (found := followed.place(in_rows)):
        place = moved(found, found.axis - len(spread) + depth)
    if place is None or place.axis < depth:
        return None
    rows = moved(place, place.axis - depth + len(spread))
    if in_rows is None:
        return rows
    node.inputs[0], node.inputs[2] = followed.at(data, place), followed.at(in_rows, rows)
    return place


def _matmul(followed: Followed, node: gs.Node) -> Place | None:
    shapes, output = [followed.shape(given) for given in node.inputs], followed.shape(node.outputs[0])
    places = [followed.place(given) for given in node.inputs]
    if len(shapes[1]) == 1 and places[1] is None:
        return _away(followed, node, len(shapes[0]) - 1)
    if min(map(len, shapes)) < 2:
        return None
    found = {
        (len(shape) - place.axis, place.inner, shape[place.axis])
        for shape, place in zip(shapes, places, strict=True)
        if place is not None
    }
    from_right, inner, size = next(iter(found))
    kept_axis = {2: 0, 1: 1}.get(from_right)  # that of rows of the first factor, of columns of the second
    alone = kept_axis is None or (places[kept_axis] is not None and places[1 - kept_axis] is None)
    if len(found) != 1 or not alone or output[-from_right] != size:
        return _apart(followed, node)
    for index, shape in enumerate(shapes if kept_axis is None else ()):
        if places[index] is None and len(shape) >= from_right and shape[-from_right] != 1:
            node.inputs[index] = followed.repeated(node.inputs[index], Place(len(shape) - from_right, inner))
    return Place(len(output) - from_right, inner)


def _gemm(followed: Followed, node: gs.Node) -> Place | None:
    place, bias = _first_input(followed, node), node.inputs[2] if len(node.inputs) > 2 else None
    if place is None or place.axis != (1 if node.attrs.get("transA") else 0):
        return None
    many_rows = bias is not None and len(followed.shape(bias)) == 2 and followed.shape(bias)[0] != 1
    return None if many_rows else moved(place, 0)


def _gather(followed: Followed, node: gs.Node) -> Place | None:
    data, indices = (followed.place(given) for given in node.inputs)
    shape, picked = (followed.shape(given) for given in node.inputs)
    axis = node.attrs.get("axis", 0) % len(shape)
    if indices is not None:
        return _gather_each(followed, node, axis) if data else moved(indices, indices.axis + axis)
    if data == Place(axis) and shape[axis] == np.prod(picked) == 1:
        return _reshape(followed, node)  # the first of one picture is the picture
    data = _away(followed, node, axis)
    return data and moved(data, data.axis + (len(picked) - 1 if axis < data.axis else 0))


def _gather_each(followed: Followed, node: gs.Node, axis: int) -> Place | None:
    """Every picture's own indices into its own rows, which lie behind those of the pictures before it."""
    shape, picked = (followed.shape(given) for given in node.inputs)
    if not picked:
        return None
    graph, rows = followed.graph, shape[axis]
    data = followed.at(node.inputs[0], Place(axis, rows))
    end = layer(graph, "Mul", followed.pictures(), int64(rows))
    end = layer(graph, "Squeeze", end, int64(0))
    first = layer(graph, "Range", np.array(0, np.int64), end, np.array(rows, np.int64))
    indices = layer(graph, "Cast", followed.apart(node.inputs[1], len(picked)), to=7)
    first = layer(graph, "Reshape", first, int64(-1, *[1] * len(picked)))
    node.inputs = [data, layer(graph, "Add", indices, first)]
    return _merged(followed, node, Place(axis, picked[0]))


def _slice(followed: Followed, node: gs.Node) -> Place | None:
    shape = followed.shape(node.inputs[0])
    parameters = [value for given in node.inputs[1:] if (value := followed.value(given)) is not None]
    if len(parameters) != len(node.inputs) - 1:
        return None
    starts, ends, *more = parameters
    axes = more[0] if more else np.arange(len(starts))
    steps = more[1] if len(more) > 1 else np.ones(len(starts), np.int64)
    whole = (starts == 0) & (ends >= np.array(shape)[axes]) & (steps == 1)
    place = _away(followed, node, *(int(axis) % len(shape) for axis in axes[~whole]))
    if whole.any():
        node.inputs[2] = _held(node, np.where(whole, np.iinfo(np.int64).max, ends).astype(np.int64), "_ends")
        for index, value in ((1, starts), (3, axes), (4, steps)):
            if index < len(node.inputs):
                node.inputs[index] = _held(node, value.astype(np.int64), f"_parameter_{index}")
    return place


def _expand(followed: Followed, node: gs.Node) -> Place | None:
    place, shape = followed.place(node.inputs[0]), followed.shape(node.inputs[0])
    target = list(followed.shape(node.outputs[0]))
    if place is None:
        return None
    axis = len(target) - len(shape) + place.axis
    if target[axis] != shape[place.axis]:
        return None
    target[axis] = 1
    node.inputs = [node.inputs[0], _held(node, int64(*target))]
    return moved(place, axis)


def _pad(followed: Followed, node: gs.Node) -> Place | None:
    place, pads = _first_input(followed, node), followed.value(node.inputs[1])
    if place is None or pads is None or len(node.inputs) > 3:
        return None
    return None if pads[place.axis] or pads[len(pads) // 2 + place.axis] else place


def _einsum(followed: Followed, node: gs.Node) -> Place | None:
    terms, _, result = node.attrs["equation"].replace(" ", "").partition("->")
    found = set()
    for given, term in zip(node.inputs, terms.split(","), strict=True):
        if place := followed.place(given):
            found.add((term[place.axis], place.inner))
    if len(found) != 1 or "." in terms:
        return None
    letter, inner = found.pop()
    if letter not in result:
        return None
    for index, (given, term) in enumerate(zip(list(node.inputs), terms.split(","), strict=True)):
        if letter in term and not followed.place(given):
            node.inputs[index] = followed.repeated(given, Place(term.index(letter), inner))
    return Place(result.index(letter), inner)


def _held(node: gs.Node, values: NDArray[np.int64], what: str = "_shape") -> gs.Constant:
    import onnx_graphsurgeon as gs

    return gs.Constant(f"{node.outputs[0].name}{what}_for_any_batch", values)


_ELEMENTWISE = (
    *(
        "Abs",
        "Add",
        "And",
        "Cast",
        "CastLike",
        "Ceil",
        "Clip",
        "Cos",
        "Div",
        "Elu",
        "Equal",
        "Erf",
        "Exp",
        "Floor",
    ),
    *(
        "Gelu",
        "Greater",
        "GreaterOrEqual",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "IsInf",
        "IsNaN",
        "LeakyRelu",
        "Less",
    ),
    *("LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "PRelu"),
    *("Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Sub", "Sum"),
    *("Swish", "Tanh", "Where", "Xor"),
)
_PICTURES_FIRST = (
    *("AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "DepthToSpace", "GlobalAveragePool"),
    *("GlobalMaxPool", "GroupNormalization", "InstanceNormalization", "LRN", "MaxPool", "SpaceToDepth"),
)
_REDUCTIONS = ("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum")
RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(("Dropout", "DequantizeLinear", "QuantizeLinear"), _first_input),
    **dict.fromkeys(_PICTURES_FIRST, _pictures_first),
    **dict.fromkeys(_REDUCTIONS, _reduce),
    **dict.fromkeys(("Softmax", "LogSoftmax", "TopK"), _along(-1)),
    **dict.fromkeys(("ArgMax", "ArgMin"), _along(0, keeps=False)),
    **dict.fromkeys(("Reshape", "Flatten"), _reshape),
    "Concat": _joined(lambda node: range(len(node.inputs)), 0),
    "CumSum": _cumulative,
    "Einsum": _einsum,
    "Expand": _expand,
    "Gather": _gather,
    "GatherElements": _joined(lambda node: (0, 1), 0),
    "GatherND": _indexed,
    "Gemm": _gemm,
    "GridSample": _grid_sample,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "Pad": _pad,
    "Resize": _resize,
    "ScatterElements": _joined(lambda node: (0, 1, 2), 0),
    "ScatterND": _indexed,
    "Slice": _slice,
    "Split": _along(0),
    "Squeeze": _squeeze,
    "Tile": _first_input,  # more copies lie before the batch, and none behind it
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
