"""What recognisers read off a checkpoint's graph, and the checks that decoders share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from detserve_builder.checkpoint import Checkpoint, TensorInfo
from detserve_client.card import Card
from detserve_client.errors import CardError

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs

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


def num_classes_of_top_k(checkpoint: Checkpoint) -> int | None:
    """C of a graph that takes the top K of A*C scores: it divides the index by C."""
    constants, nodes = _integers(checkpoint), checkpoint.model.graph.node
    ranked = {name for node in nodes if node.op_type == "TopK" for name in node.output}
    divisors = {
        constants[node.input[1]]
        for node in nodes
        if node.op_type in ("Mod", "Div") and node.input[0] in ranked and node.input[1] in constants
    }
    return divisors.pop() if len(divisors) == 1 else None


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
    import numpy as np
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
