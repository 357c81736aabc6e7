"""An .onnx file -> the network in it, whole and runnable, or the sentence that says what is wrong with it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from detserve_builder.checkpoint.custom_operators import refuse_custom_operators
from detserve_builder.checkpoint.nms_plugins import cut_nms_plugin
from detserve_builder.checkpoint.opset import NEWEST_IR, NEWEST_OPSET, OLDEST_OPSET, opset_of
from detserve_builder.errors import BuildError, first_line
from detserve_builder.graph.branches import all_weights
from detserve_builder.graph.sorting import sort_nodes

if TYPE_CHECKING:
    import onnx


_PYTORCH = (
    "PyTorch's weights: export them to ONNX first, for Ultralytics with yolo export model={} format=onnx"
)
_OTHER_FILES = {
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".safetensors"), _PYTORCH),
    ".tflite": "a TensorFlow Lite model: convert it to ONNX first, with tf2onnx",
    **dict.fromkeys((".engine", ".plan"), "a TensorRT plan: bring the ONNX file that it was built from"),
    **dict.fromkeys((".jpg", ".jpeg", ".png"), "a picture: the detector's file comes first"),
}


def read_onnx(path: Path) -> tuple[onnx.ModelProto, str]:
    """The network of an .onnx file, external weights loaded, functions inlined and nodes sorted, and its
    SHA-256.

    The hash is of the file, followed by the external files it names. Raises :class:`BuildError`.
    """
    content = _read(path)
    model = _parse(path, content)
    digest = hashlib.sha256(content)
    for file in _load_external(path, model):
        digest.update(file.read_bytes())
    return whole(path, model), digest.hexdigest()


def whole(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` with functions inlined and nodes sorted, checked. Raises :class:`BuildError`."""
    import onnx
    from onnx import inliner

    _refuse_versions(path, model)
    if model.functions:
        model = inliner.inline_local_functions(model)
    sort_nodes(model.graph)
    cut_nms_plugin(path, model)
    refuse_custom_operators(path, model)
    _refuse_missing_tensors(path, model.graph)
    _refuse_repeated(path, [value.name for value in model.graph.output])
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, RuntimeError) as error:
        raise BuildError(f"{path}: the ONNX graph is not valid ({first_line(error)})") from None
    _refuse_nan(path, model)
    return model


def _refuse_repeated(path: Path, outputs: list[str]) -> None:
    for name in outputs:
        if outputs.count(name) > 1:
            raise BuildError(f"{path}: the output {name} is listed twice; export each output once")


def _refuse_missing_tensors(path: Path, graph: onnx.GraphProto) -> None:
    known = {value.name for value in (*graph.input, *graph.initializer)}
    known |= {tensor.values.name for tensor in graph.sparse_initializer}
    known |= {name for node in graph.node for name in node.output}
    for node in graph.node:
        missing = {name for name in node.input if name} - known
        if missing:
            raise BuildError(
                f"{path}: the node {node.op_type} {node.name!r} reads {min(missing)}, which nothing makes; "
                "an exporter or optimiser lost it: export the network in another way"
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
        raise BuildError(_not_onnx(path, "not an ONNX file, or a corrupt one", content)) from None
    if not model.graph.node:
        raise BuildError(_not_onnx(path, "an ONNX file with no nodes in it", content))
    return model


def _not_onnx(path: Path, otherwise: str, content: bytes) -> str:
    what = _OTHER_FILES.get(path.suffix.lower(), otherwise).format(path)
    return f"{path}: {what} ({len(content)} bytes)"


def _refuse_versions(path: Path, model: onnx.ModelProto) -> None:
    opset = opset_of(model)
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise BuildError(
            f"{path}: written at ONNX opset {opset}, expected {OLDEST_OPSET} to {NEWEST_OPSET}; "
            "export it with an opset in that range, 17 is read everywhere"
        )
    if model.ir_version > NEWEST_IR:
        raise BuildError(
            f"{path}: written with ONNX IR version {model.ir_version}, expected {NEWEST_IR} at most; "
            "export it at opset 17 to 22, or with an older onnx"
        )


def _load_external(path: Path, model: onnx.ModelProto) -> list[Path]:
    """Load the weights that are in their own files; returns these files."""
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    folder = path.parent.resolve()
    files: dict[Path, None] = {}
    for name, tensor in all_weights(model):
        if not uses_external_data(tensor):
            continue
        info = ExternalDataInfo(tensor)
        file = path.parent / info.location
        if file.is_symlink():
            raise BuildError(
                f"{path}: {info.location} beside it is a link, as Hugging Face's cache has them, which ONNX "
                "does not follow; copy the folder with the files themselves (cp -rL)"
            )
        if not file.resolve().is_relative_to(folder):
            raise BuildError(
                f"{path}: the weights {name} are in {info.location}, outside the file's folder; put both "
                "into one folder and export again"
            )
        if not file.is_file():
            raise BuildError(
                f"{path}: the weights {name} are in {info.location}, which is not beside it; copy that file "
                "here too, or export into one file"
            )
        end = (info.offset or 0) + (info.length or 0)
        if file.stat().st_size < end:
            raise BuildError(
                f"{path}: {info.location} has {file.stat().st_size} bytes, but the weights {name} end at "
                f"{end}; copy the whole file"
            )
        files[file] = None
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (onnx.checker.ValidationError, OSError, ValueError) as error:
        raise BuildError(f"{path}: its external weights cannot be read ({first_line(error)})") from None
    return list(files)


def _refuse_nan(path: Path, model: onnx.ModelProto) -> None:
    """Infinity is a legitimate mask; not-a-number in the weights is a training that diverged."""
    import numpy as np
    from onnx import TensorProto, numpy_helper

    floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
    for name, tensor in all_weights(model):
        if tensor.data_type not in floats:
            continue
        values = numpy_helper.to_array(tensor).astype(np.float32)
        if count := int(np.isnan(values).sum()):
            raise BuildError(
                f"{path}: the weights {name} {list(values.shape)} hold {count} NaN, expected numbers; "
                f"export a checkpoint from before the training diverged"
            )
