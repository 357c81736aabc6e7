"""What recognisers read off a checkpoint's graph, and the checks that decoders share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from detserve_builder.checkpoint import Checkpoint, TensorInfo
from detserve_builder.errors import BuildError
from detserve_builder.graph.branches import all_graphs
from detserve_builder.graph.layers import float32, int64, layer
from detserve_builder.graph.running import run_each
from detserve_core.card import Card, Wh
from detserve_core.errors import CardError

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs
    from numpy.typing import NDArray

IMAGENET_MEAN = (123.675, 116.28, 103.53)  # of pixels 0..255, RGB
IMAGENET_STD = (58.395, 57.12, 57.375)
_SHARES_UP_TO = 4.0  # boxes reach beyond the picture, but shares not four times its side
_PICTURE = Path(__file__).parents[1] / "warmup.jpg"


# Ops that move values about without changing them.

_MOVES = {
    *("Cast", "Concat", "Flatten", "Gather", "Identity", "Reshape"),
    *("Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"),
}


def image_wh(checkpoint: Checkpoint) -> tuple[int, int] | None:
    """Width and height of the first input, where it is an NCHW image of a fixed size."""
    shape = checkpoint.inputs[0].shape if checkpoint.inputs else ()
    if len(shape) != 4 or (isinstance(shape[1], int) and shape[1] != 3):
        return None
    height, width = shape[2:]
    return (width, height) if isinstance(width, int) and isinstance(height, int) else None


def num_cells(wh: tuple[int, int], strides: Iterable[int]) -> int:
    """Cells of feature maps that cover the whole input; a part of a stride counts as a cell."""
    return sum(-(-wh[0] // stride) * -(-wh[1] // stride) for stride in strides)


def strides_of(shapes: Sequence[tuple[int | str, ...]], wh: tuple[int, int]) -> list[int] | None:
    """The stride of each (height, width), where both sides agree on one."""
    strides = []
    for height, width in shapes:
        if not isinstance(height, int) or not isinstance(width, int) or not height or not width:
            return None
        stride = round(wh[0] / width)
        if not stride or (-(-wh[0] // stride), -(-wh[1] // stride)) != (width, height):
            return None
        strides.append(stride)
    return strides


def ops(checkpoint: Checkpoint) -> set[str]:
    """The operators of the graph."""
    return {node.op_type for node in checkpoint.model.graph.node}


def last_op(checkpoint: Checkpoint, output: TensorInfo) -> str:
    """The operator that made the values of ``output`` (of its first part, where parts are joined)."""
    producers = _producers(checkpoint)
    node = producers.get(output.name)
    while node is not None and node.op_type in _MOVES:
        node = producers.get(node.input[0])
    return node.op_type if node is not None else ""


def channel_parts(checkpoint: Checkpoint, output: TensorInfo) -> tuple[int, ...]:
    """The channels of the parts that ``output`` was joined of along axis 1, or () where it was not."""
    producers, sizes = _producers(checkpoint), _channels(checkpoint)
    node = producers.get(output.name)
    while node is not None and node.op_type in _MOVES:
        if node.op_type == "Concat" and node.attribute[0].i == 1:
            return tuple(sizes.get(name, 0) for name in node.input)
        node = producers.get(node.input[0])
    return ()


def ops_of_parts(checkpoint: Checkpoint, output: TensorInfo) -> tuple[str, ...]:
    """The operator behind each of :func:`channel_parts`, values that are only moved about aside."""
    producers = _producers(checkpoint)
    node = producers.get(output.name)
    while node is not None and node.op_type in _MOVES:
        if node.op_type == "Concat" and node.attribute[0].i == 1:
            parts = [TensorInfo(name, "", ()) for name in node.input]
            return tuple(last_op(checkpoint, part) for part in parts)
        node = producers.get(node.input[0])
    return ()


def num_classes_of_top_k(checkpoint: Checkpoint) -> int | None:
    """C of a graph that takes the top K of A*C scores: it divides the index by C, a constant or computed."""
    constants, nodes = _integers(checkpoint), checkpoint.model.graph.node
    ranked: set[str] = set()
    divisors: set[str] = set()
    for node in nodes:
        if node.op_type == "TopK" or (node.op_type in _MOVES and ranked & set(node.input)):
            ranked.update(node.output)
        elif node.op_type in ("Mod", "Div") and node.input[0] in ranked:
            divisors.add(node.input[1])
    if not divisors <= set(constants):
        constants = constants | _measured(checkpoint, divisors - set(constants))
    values = {constants.get(name) for name in divisors}
    return values.pop() if len(values) == 1 else None


def _measured(checkpoint: Checkpoint, names: set[str]) -> dict[str, int]:
    """The inner tensors ``names`` that are one number, for a real picture."""
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(checkpoint.model)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(names))
    wh = image_wh(checkpoint)
    for outputs in _run_all(checkpoint, model, wh, 1) if wh is not None else []:
        return {name: int(value.item()) for name, value in outputs.items() if value.size == 1}
    return {}


def last_top_k(checkpoint: Checkpoint) -> int | None:
    """K of the graph's last TopK."""
    constants = _integers(checkpoint)
    found = [constants.get(n.input[1]) for n in checkpoint.model.graph.node if n.op_type == "TopK"]
    return found[-1] if found else None


def expect_classes(card: Card, output: gs.Tensor, found: Any) -> None:
    """Raises CardError where ``output`` is for another number of classes than the card has labels."""
    if isinstance(found, int) and found != len(card.labels):
        raise CardError(
            f"card: labels: got {len(card.labels)}, but the graph's output {output.name} has {found} classes"
        )


def classes_beside(field: str, box_columns: int, output: gs.Tensor, columns: int) -> int:
    """How many of ``columns`` are class scores; raises CardError where ``field`` leaves none."""
    if columns <= box_columns:
        raise CardError(
            f"card: {field}: the boxes would take {box_columns} columns, but the graph's output "
            f"{output.name} has {columns} in all"
        )
    return columns - box_columns


def expect_anchors(field: str, said: str, anchors: int, output: gs.Tensor, found: Any) -> None:
    """Raises CardError where ``output`` has another number of anchors than ``field`` leads to."""
    if isinstance(found, int) and found != anchors:
        raise CardError(
            f"card: {field}: {said} gives {anchors} anchors, but the graph's output {output.name} has {found}"
        )


def _producers(checkpoint: Checkpoint) -> dict[str, onnx.NodeProto]:
    return {name: node for node in checkpoint.model.graph.node for name in node.output}


def _channels(checkpoint: Checkpoint) -> dict[str, int]:
    shapes = {value.name: value.type.tensor_type.shape.dim for value in checkpoint.model.graph.value_info}
    return {name: dims[1].dim_value for name, dims in shapes.items() if len(dims) > 1}


def _integers(checkpoint: Checkpoint) -> dict[str, int]:
    """The integer constants of one element, by name."""
    from onnx import numpy_helper

    graph = checkpoint.model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    tensors |= {
        node.output[0]: node.attribute[0].t
        for node in graph.node
        if node.op_type == "Constant" and node.attribute[0].name == "value"
    }
    values = {name: numpy_helper.to_array(t) for name, t in tensors.items() if t.data_type in (6, 7)}
    return {name: int(value.item()) for name, value in values.items() if np.size(value) == 1}


def num_classes_of_arg_max(checkpoint: Checkpoint) -> int | None:
    """C of a graph that takes the best of C scores itself, by ArgMax along the last axis."""
    shapes = {value.name: value.type.tensor_type.shape.dim for value in checkpoint.model.graph.value_info}
    found = [n for n in checkpoint.model.graph.node if n.op_type == "ArgMax" and n.input[0] in shapes]
    axes = [next((a.i for a in node.attribute if a.name == "axis"), 0) for node in found]
    sizes = {shapes[node.input[0]][axis].dim_value for node, axis in zip(found, axes, strict=True)}
    return sizes.pop() or None if len(sizes) == 1 else None


def class_of_number(
    graph: gs.Graph, numbers: gs.Tensor, of_labels: Sequence[int]
) -> tuple[gs.Tensor, gs.Tensor]:
    """The index of each of ``numbers`` int64 [..] in ``of_labels``, and whether it is there, bool [..].

    A number that is not there gives class -1.
    """
    is_number = layer(graph, "Equal", layer(graph, "Unsqueeze", numbers, int64(-1)), int64(*of_labels))
    is_number = layer(graph, "Cast", is_number, to=1)
    classes = layer(graph, "ArgMax", is_number, axis=-1, keepdims=0)
    known = layer(graph, "Cast", layer(graph, "ReduceMax", is_number, axes=[-1], keepdims=0), to=9)
    return layer(graph, "Where", known, classes, int64(-1)), known


def shapes(checkpoint: Checkpoint) -> dict[str, tuple[int | None, ...]]:
    """The shape of every inner tensor that inference follows; None for a size that it leaves open."""
    graph = checkpoint.model.graph
    return {
        value.name: tuple(
            dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim
        )
        for value in (*graph.value_info, *graph.output, *graph.input)
    }


def suppresses(checkpoint: Checkpoint) -> bool:
    """Whether there is a NonMaxSuppression, in the branches of the graph too."""
    graphs = all_graphs(checkpoint.model.graph)
    return any(node.op_type == "NonMaxSuppression" for graph in graphs for node in graph.node)


def rows_of_one_picture(checkpoint: Checkpoint) -> dict[str, str] | None:
    """Names of the outputs boxes [D,4], labels int64 [D] and scores [D]; others may be beside them."""
    found: dict[str, list[str]] = {"boxes": [], "labels": [], "scores": []}
    for output in checkpoint.outputs:
        if output.dtype == "FLOAT" and len(output.shape) == 2 and output.shape[1] == 4:
            found["boxes"].append(output.name)
        elif len(output.shape) == 1 and output.dtype in ("INT64", "FLOAT"):
            found["labels" if output.dtype == "INT64" else "scores"].append(output.name)
    if any(len(names) != 1 for names in found.values()):
        return None
    return {kind: names[0] for kind, names in found.items()}


def passed_on_way_back(checkpoint: Checkpoint, output: TensorInfo) -> set[str]:
    """The operators that move values about between ``output`` and the one of :func:`last_op`."""
    producers, passed = _producers(checkpoint), set()
    node = producers.get(output.name)
    while node is not None and node.op_type in _MOVES:
        passed.add(node.op_type)
        node = producers.get(node.input[0])
    return passed


def constant_added_last(checkpoint: Checkpoint, output: TensorInfo) -> NDArray[Any] | None:
    """The bias of the layer that made the values of ``output``, or None where none is seen."""
    from onnx import numpy_helper

    producers = _producers(checkpoint)
    node = producers.get(output.name)
    while node is not None and node.op_type in _MOVES:
        node = producers.get(node.input[0])
    if node is None or node.op_type not in ("Add", "Gemm"):
        return None
    added = {tensor.name: tensor for tensor in checkpoint.model.graph.initializer if len(tensor.dims) == 1}
    found = [added[name] for name in node.input if name in added]
    return numpy_helper.to_array(found[0]) if found else None


def probe(checkpoint: Checkpoint) -> list[dict[str, NDArray[Any]]]:
    """What the network gives for real pictures, one after the other, by output: one form's arrays of batch 1.

    A picture upright and turned, as 0..1, 0..255 and with ImageNet's statistics, for nobody has said yet what
    the network wants. Empty where ONNX Runtime cannot run it; a network that finds nothing gives no rows.
    """
    wh = image_wh(checkpoint)
    if wh is None:
        return []
    found = _run_all(checkpoint, checkpoint.model, wh, 6)
    return [outputs for outputs in found if _as_declared(outputs, checkpoint.outputs)]


def _as_declared(outputs: Mapping[str, NDArray[Any]], declared: Iterable[TensorInfo]) -> bool:
    """Whether every output has the number of dimensions, and the last of them, that the file says."""
    return all(
        outputs[info.name].ndim == len(info.shape)
        and (
            not info.shape
            or not isinstance(info.shape[-1], int)
            or outputs[info.name].shape[-1] == info.shape[-1]
        )
        for info in declared
    )


def _run_all(
    checkpoint: Checkpoint, model: onnx.ModelProto, wh: Wh, most: int
) -> list[dict[str, NDArray[Any]]]:
    """Outputs of ``model`` by name for each of ``most`` pictures; none where ONNX Runtime cannot run it."""
    name = checkpoint.inputs[0].name
    try:
        return run_each(model, [{name: picture} for picture in _probe_pictures(wh)[:most]])
    except BuildError:
        return []


def _probe_pictures(wh: tuple[int, int]) -> list[NDArray[np.float32]]:
    import cv2

    pixels = cv2.resize(cv2.imread(str(_PICTURE))[..., ::-1], wh).astype(np.float32)
    upright = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])
    mean, std = (float32(value).reshape(1, 3, 1, 1) for value in (IMAGENET_MEAN, IMAGENET_STD))
    return [
        made
        for picture in (upright, np.ascontiguousarray(upright[..., ::-1, ::-1]))
        for made in (picture / 255, picture, (picture - mean) / std)
    ]


def in_pixels(boxes: Iterable[NDArray[Any]]) -> bool:
    """Whether boxes [..,4] of real pictures are network pixels.

    Shares of the input stay small, but for pictures that are not normalised as the network was trained with.
    """
    return min((float(np.abs(found).max()) for found in boxes if found.size), default=np.inf) > _SHARES_UP_TO
