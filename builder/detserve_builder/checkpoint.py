"""A checkpoint file -> an ONNX model in memory, with what can be read off its outside."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detserve_builder.darknet import read as darknet
from detserve_builder.errors import BuildError
from detserve_builder.measured_shapes import measure_open_outputs
from detserve_builder.zoo import find_in_zoo

if TYPE_CHECKING:
    import onnx

OPSET = 17  # LayerNormalization and per-axis Q/DQ exist from here on; every target reads it


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
    """A detector as it came, as ONNX.

    ``card_path`` is a card.json beside it, if any; ``card_fields`` is what the file format itself says.
    """

    path: Path
    sha256: str
    model: onnx.ModelProto
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    card_path: Path | None
    card_fields: Mapping[str, Any] = field(default_factory=dict)


def load_checkpoint(source: str, *, structure_only: bool = False) -> Checkpoint:
    """Read an .onnx file, Darknet's .cfg and .weights, or a zoo name, as opset 17. Raises BuildError.

    With ``structure_only`` a .cfg may lack its .weights: the graph then has zeros, and ``sha256`` is empty.
    """
    path = Path(source)
    card_path = path.parent / "card.json"
    if not path.exists():
        zoo_path = find_in_zoo(source)
        if zoo_path is None:
            raise BuildError(f"{source}: no such file, and no detector of that name in the zoo")
        path, card_path = zoo_path, zoo_path.parent / "card.json"
    if path.is_dir():
        raise BuildError(f"{path}: a folder, expected an .onnx file, a .cfg or a zoo name")
    card_fields: Mapping[str, Any] = {}
    if path.suffix in darknet.SUFFIXES:
        network = darknet.read_darknet(path, OPSET, structure_only=structure_only)
        path, sha256, card_fields = network.cfg_path, network.sha256, network.card_fields
        model = _at_opset(path, network.model)
    else:
        content = _read(path)
        sha256, model = hashlib.sha256(content).hexdigest(), _parse(path, content)
    return Checkpoint(
        path=path,
        sha256=sha256,
        model=model,
        inputs=_tensors(model, of_outputs=False),
        outputs=_tensors(model, of_outputs=True),
        card_path=card_path if card_path.exists() else None,
        card_fields=card_fields,
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BuildError(f"{path}: cannot be read ({error.strerror})") from None


def _parse(path: Path, content: bytes) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(content)
    except DecodeError:
        raise BuildError(f"{path}: not an ONNX file, or a corrupt one ({len(content)} bytes)") from None
    if not model.graph.node:
        raise BuildError(f"{path}: an ONNX file with no nodes in it ({len(content)} bytes)")
    return _at_opset(path, model)


def _at_opset(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """External data loaded, opset 17 at least, every shape inferred."""
    import onnx
    from onnx import version_converter

    try:
        onnx.load_external_data_for_model(model, str(path.parent))
        onnx.checker.check_model(model)
        opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
        if opset < OPSET:
            model = version_converter.convert_version(model, OPSET)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except (
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
        RuntimeError,
        OSError,
    ) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise BuildError(f"{path}: the ONNX graph is not valid ({reason})") from None
    _refuse_nan(path, model)
    measure_open_outputs(model)
    return model


def _refuse_nan(path: Path, model: onnx.ModelProto) -> None:
    """Infinity is a legitimate mask; not-a-number in the weights is a training that diverged."""
    import numpy as np
    from onnx import numpy_helper

    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype.kind == "f" and (count := int(np.isnan(values).sum())):
            raise BuildError(
                f"{path}: the weights {tensor.name} {list(values.shape)} hold {count} NaN, expected numbers; "
                f"export a checkpoint from before the training diverged"
            )


def _tensors(model: onnx.ModelProto, *, of_outputs: bool) -> tuple[TensorInfo, ...]:
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
