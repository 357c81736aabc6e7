"""Where the columns of an output come from: boxes, sigmoids of classes, and what lies behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from detserve_builder.checkpoint import Checkpoint, TensorInfo

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Column:
    """Where one column of an output comes from: the tensor, the operator that made its values, and the axis
    of that tensor along which the columns lie.
    """

    tensor: str
    op: str
    axis: int

    @property
    def is_sigmoid(self) -> bool:
        """Whether it is a sigmoid's value as it is; QLinearSigmoid is one too."""
        return self.op.endswith("Sigmoid")

    @property
    def is_index(self) -> bool:
        """Whether it is the number of a class."""
        return self.op == "ArgMax"


def columns_of(checkpoint: Checkpoint, output: TensorInfo, axis: int) -> list[Column]:
    """The origin of each column of ``output`` along ``axis``; empty where the graph does not tell.

    Joined, cut and turned tensors are followed back to what made their values.
    """
    return _Origins(checkpoint).columns(output.name, axis) or []


def box_and_classes(columns: Sequence[Column]) -> tuple[int, int] | None:
    """C class columns and the number of those behind, for columns of a box, then C sigmoids, then others.

    None where the columns are in no such order.
    """
    if len(columns) < 5 or any(column.is_sigmoid for column in columns[:4]):
        return None
    behind = next((i for i, column in enumerate(columns[4:]) if not column.is_sigmoid), len(columns) - 4)
    if behind == 0 or any(column.is_sigmoid for column in columns[4 + behind :]):
        return None
    return behind, len(columns) - 4 - behind


def are_corners(checkpoint: Checkpoint, columns: Sequence[Column]) -> bool | None:
    """Whether the graph makes corners of a box: centre less, and plus, distances; None where it is unclear.

    False for centre and size: half a sum, and a difference. A last product with strides is looked through.
    """
    origins, box = _Origins(checkpoint), list(columns[:4])
    if len({column.tensor for column in box}) == 1 and box[0].op in ("Mul", "Div"):
        box = origins.unscaled(box[0]) or box
    made = [column.op for column in box]
    if made == ["Sub", "Sub", "Add", "Add"]:
        return True
    sizes = made[2:] == ["Sub", "Sub"] and made[0] == made[1] and made[0] in ("Add", "Div", "Mul")
    return False if sizes else None


def are_products(scores: Sequence[Column], box: Column) -> bool:
    """Whether ``scores`` are one product, apart from the ``box``: they hold the objectness already."""
    of_one = len({(column.tensor, column.op) for column in scores}) == 1
    return of_one and scores[0].op == "Mul" and scores[0].tensor != box.tensor


class _Origins:
    """Follows the columns of a tensor back through a graph."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        from onnx import numpy_helper

        graph = checkpoint.model.graph
        self._producers = {name: node for node in graph.node for name in node.output}
        described = (*graph.value_info, *graph.output, *graph.input)
        self._shapes = {value.name: _dims(value) for value in described}
        self._shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
        small = (tensor for tensor in graph.initializer if tensor.data_type == 7 and len(tensor.dims) <= 1)
        self._integers = {t.name: numpy_helper.to_array(t).ravel().tolist() for t in small}

    def columns(self, name: str, axis: int) -> list[Column] | None:
        """One entry a column of ``name`` along ``axis``."""
        shape, node = self._shapes.get(name), self._producers.get(name)
        if shape is None or not -len(shape) <= axis < len(shape):
            return None
        axis %= len(shape)
        if node is not None:
            followed = self._behind(node, name, axis)
            if followed is not None:
                return followed
        size = shape[axis]
        op = node.op_type if node is not None else ""
        return None if size is None else [Column(name, op, axis)] * size

    def unscaled(self, column: Column) -> list[Column] | None:
        """The four columns that a product scales, where they are of several tensors."""
        for source in self._producers[column.tensor].input:
            if self._shapes.get(source, [])[column.axis :][:1] == [4]:
                columns = self.columns(source, column.axis)
                if columns and len({found.tensor for found in columns}) > 1:
                    return columns
        return None

    def _behind(self, node: onnx.NodeProto, name: str, axis: int) -> list[Column] | None:
        """The columns as those of the node's inputs, or None where they cannot be followed further."""
        source, ints = node.input[0] if node.input else "", _int_attributes(node)
        before, after = self._shapes.get(source, []), self._shapes[name]
        if node.op_type in ("Cast", "Identity", "QuantizeLinear", "DequantizeLinear"):
            return self.columns(source, axis)
        if node.op_type == "Transpose":
            return self.columns(source, ints["perm"][axis]) if "perm" in ints else None
        if node.op_type == "Concat":
            return self._joined(node, axis, ints["axis"] % len(after))
        if node.op_type == "Reshape" and before:
            last = axis == len(after) - 1 and before[-1] == after[-1] is not None
            second = axis == 1 and len(before) > 1 and before[1] == after[1] is not None
            return self.columns(source, len(before) - 1 if last else 1) if last or second else None
        if node.op_type in ("Slice", "Split"):
            return self._cut(node, name, axis, ints.get("axis", 0))
        if node.op_type in ("Gather", "GatherElements") and ints.get("axis", 0) % len(after) != axis:
            return self.columns(source, axis) if len(before) == len(after) else None
        if node.op_type in ("Squeeze", "Unsqueeze") and len(node.input) > 1:
            return self._other_rank(node, source, axis)
        return None

    def _joined(self, node: onnx.NodeProto, axis: int, along: int) -> list[Column] | None:
        parts = [self.columns(source, axis) for source in node.input]
        if along != axis:
            return parts[0]
        return (
            None
            if any(part is None for part in parts)
            else [column for part in parts for column in part or ()]
        )

    def _cut(self, node: onnx.NodeProto, name: str, axis: int, split_axis: int) -> list[Column] | None:
        rank = len(self._shapes[name])
        if node.op_type == "Split":
            if split_axis % rank != axis:
                return self.columns(node.input[0], axis)
            sizes = [(self._shapes.get(output) or [None] * rank)[axis] for output in node.output]
            before = sizes[: list(node.output).index(name)]
            if any(size is None for size in sizes):
                return None
            start = sum(size or 0 for size in before)
            columns = self.columns(node.input[0], axis)
            return columns[start : start + (sizes[len(before)] or 0)] if columns else None
        starts, ends, axes, steps = (self._integers.get(n) for n in (list(node.input) + [""] * 4)[1:5])
        if axes is None and len(node.input) < 4:
            axes = list(range(rank))
        if axes is None:
            return None
        axes = [given % rank for given in axes]
        columns = self.columns(node.input[0], axis)
        if axis not in axes or columns is None:
            return columns
        if starts is None or ends is None:
            return None
        at = axes.index(axis)
        return columns[slice(starts[at], ends[at], steps[at] if steps else 1)]

    def _other_rank(self, node: onnx.NodeProto, source: str, axis: int) -> list[Column] | None:
        axes, rank = self._integers.get(node.input[1]), len(self._shapes.get(source, []))
        if axes is None or not rank:
            return None
        if node.op_type == "Unsqueeze":
            added = {given % (rank + len(axes)) for given in axes}
            if axis in added:
                made_by = self._producers.get(source)
                return [Column(source, made_by.op_type if made_by is not None else "", axis)]
            return self.columns(source, axis - sum(a < axis for a in added))
        kept = [given for given in range(rank) if given not in {a % rank for a in axes}]
        return self.columns(source, kept[axis])


def _dims(value: onnx.ValueInfoProto) -> list[int | None]:
    """Sizes of a tensor, None where one is open."""
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]


def _int_attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: list(a.ints) or a.i for a in node.attribute}
