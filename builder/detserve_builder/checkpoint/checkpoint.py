"""What is known about a checkpoint before anybody asks what kind of detector it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class TensorInfo:
    """A graph input or output; a dimension is a number, a symbol, or "?" where the file says nothing."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        """Name, dtype and shape, for messages."""
        return f"{self.name} {self.dtype} [{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Checkpoint:
    """A detector as it came, and the same network in the one form that everything behind this knows.

    ``original`` is the file's own network. ``model`` computes the same: opset 17 or later, nodes sorted,
    constants as initialisers, one input FLOAT [N,3,H,W] of a fixed size, floating-point outputs as FLOAT;
    ``inputs`` and ``outputs`` are its. ``fed`` holds what the file's other inputs are given, by name.
    ``metadata`` is the file's own, ``configs`` are the JSON files that an exporter left beside it, by file
    name. ``card_path`` is a card.json beside it that is for it, if any, and ``card_note`` says whether one
    there is used; ``card_fields`` is what the file format itself says.
    ``sha256`` covers external weights too.
    """

    path: Path
    sha256: str
    original: onnx.ModelProto
    model: onnx.ModelProto
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    card_path: Path | None
    card_note: str = ""
    card_fields: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    fed: Mapping[str, Any] = field(default_factory=dict)


def tensors(model: onnx.ModelProto, *, of_outputs: bool) -> tuple[TensorInfo, ...]:
    """The inputs that are no weights, or the outputs, of ``model``."""
    import onnx

    weights = {initializer.name for initializer in model.graph.initializer}
    values = model.graph.output if of_outputs else model.graph.input
    return tuple(
        TensorInfo(
            name=value.name,
            dtype=onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type),
            shape=tuple(
                dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?"
                for dim in value.type.tensor_type.shape.dim
            ),
        )
        for value in values
        if value.name not in weights
    )
