"""A path or zoo name -> :class:`Checkpoint`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detserve_builder.checkpoint.checkpoint import Checkpoint, tensors
from detserve_builder.checkpoint.image_input import input_size_is_fixed
from detserve_builder.checkpoint.input_size import size_in_metadata
from detserve_builder.checkpoint.one_form import in_one_form
from detserve_builder.checkpoint.onnx_file import read_onnx, whole
from detserve_builder.checkpoint.opset import OPSET
from detserve_builder.darknet import read as darknet
from detserve_builder.errors import BuildError
from detserve_builder.zoo import find_in_zoo
from detserve_core.card import Wh
from detserve_core.errors import MissingExtra

if TYPE_CHECKING:
    import onnx

_LIBRARIES = {
    "onnx": "onnx",
    "onnx_graphsurgeon": "onnx-graphsurgeon",
    "onnxruntime": "onnxruntime",
    "cv2": "opencv-python",
}
_CONFIGS = (
    "config.json",
    "preprocessor_config.json",
)  # as Hugging Face's exporters leave them beside the ONNX


def load_checkpoint(source: str, *, structure_only: bool = False) -> Checkpoint:
    """Read an .onnx file, Darknet's .cfg and .weights, or a zoo name. Raises BuildError, and MissingExtra
    where the builder's libraries are not installed.

    With ``structure_only`` a .cfg may lack its .weights: the graph then has zeros, and ``sha256`` is empty.
    A size of the input that the file leaves open stays open where nothing beside it says one; then
    :func:`at_size` is for it.
    """
    _require_libraries()
    path = Path(source)
    if not path.exists() or (path.is_dir() and find_in_zoo(source) is not None):
        zoo_path = find_in_zoo(source)
        if zoo_path is None:
            raise BuildError(f"{source}: no such file, and no detector of that name in the zoo")
        path = zoo_path
    if path.is_dir():
        raise BuildError(f"{path}: a folder, expected an .onnx file, a .cfg or a zoo name")
    card_fields: Mapping[str, Any] = {}
    if path.suffix in darknet.SUFFIXES:
        network = darknet.read_darknet(path, OPSET, structure_only=structure_only)
        path, sha256, card_fields = network.cfg_path, network.sha256, network.card_fields
        original = whole(path, network.model)
    else:
        original, sha256 = read_onnx(path)
    metadata = {entry.key: entry.value for entry in original.metadata_props}
    configs = {name: found for name in _CONFIGS if (found := _config(path.parent / name)) is not None}
    return _checkpoint(
        path,
        sha256,
        original,
        input_wh=size_in_metadata(metadata, configs),
        **_card_beside(path, sha256),
        card_fields=card_fields,
        metadata=metadata,
        configs=configs,
    )


def at_size(checkpoint: Checkpoint, input_wh: Wh) -> Checkpoint:
    """``checkpoint`` for pictures of ``input_wh`` (width and height, pixels), where its file leaves the size
    open.
    """
    if input_size_is_fixed(checkpoint.original) or checkpoint.inputs[0].shape[:1:-1] == input_wh:
        return checkpoint
    model, fed = in_one_form(checkpoint.path, checkpoint.original, input_wh)
    inputs, outputs = tensors(model, of_outputs=False), tensors(model, of_outputs=True)
    return replace(checkpoint, model=model, fed=fed, inputs=inputs, outputs=outputs)


def _checkpoint(
    path: Path, sha256: str, original: onnx.ModelProto, input_wh: Wh | None, **beside: Any
) -> Checkpoint:
    model, fed = in_one_form(path, original, input_wh)
    return Checkpoint(
        path=path,
        sha256=sha256,
        original=original,
        model=model,
        inputs=tensors(model, of_outputs=False),
        outputs=tensors(model, of_outputs=True),
        fed=fed,
        **beside,
    )


def _config(path: Path) -> dict[str, Any] | None:
    """A JSON object that an exporter left beside the checkpoint, or None where there is none."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _card_beside(path: Path, sha256: str) -> dict[str, Any]:
    """``card_path``, the card.json beside ``path`` where it is this checkpoint's, and ``card_note``.

    It is where its origin or its name says so, or where it says neither and there is no other checkpoint.
    """
    card_path = path.parent / "card.json"
    if not card_path.exists():
        return {"card_path": None}
    others = [file for file in path.parent.iterdir() if file.suffix in (".onnx", ".cfg") and file != path]
    card = _config(card_path) or {}
    origin = card.get("origin")
    origin = origin if isinstance(origin, dict) else {}
    of_file = Path(str(origin.get("source", ""))).name
    why_not = ""
    if path.stem not in (card.get("name"), Path(of_file).stem) and origin.get("sha256") != sha256:
        if origin.get("sha256") and sha256:
            why_not = f"its origin is {of_file or 'another file'}"
        elif others:
            why_not = f"it does not say whether it is for {path.name} or {others[0].name}"
    if not why_not:
        return {"card_path": card_path, "card_note": f"card fields are read from {card_path}"}
    note = f"{card_path} is not used: {why_not}; to use it, say --card {card_path}"
    return {"card_path": None, "card_note": note}


def _require_libraries() -> None:
    for module, library in _LIBRARIES.items():
        if find_spec(module) is None:
            raise MissingExtra(library, "builder")
