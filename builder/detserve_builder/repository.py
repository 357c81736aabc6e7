"""Prepared ONNX and card -> the model folders of a Triton repository, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from detserve_builder.card_sources import Source
from detserve_builder.errors import BuildError
from detserve_builder.precision.request import Precision
from detserve_builder.preparation.prepare import Prepared
from detserve_builder.runtime import Runtime
from detserve_builder.triton_config import Placement, Preprocess, Target, configs
from detserve_builder.warmup import WarmupPicture, write_warmup
from detserve_core.card import Card
from detserve_core.machine.sha256 import file_sha256
from detserve_core.repository.config_pbtxt import CONFIG, to_pbtxt
from detserve_core.repository.manifest import MANIFEST, Manifest

MAX_BATCH_SIZE = 8
_STEPS = Path(__file__).parent / "steps"
_VERSIONED = ("detserve", "numpy", "onnx", "onnxruntime", "opencv-python", "openvino")


def write_repository(
    folder: Path,
    card: Card,
    prepared: Prepared,
    *,
    target: Target,
    placement: Placement,
    preprocess: Preprocess = Preprocess.PYTHON,
    warmup: WarmupPicture,
    measured: dict[str, Any],
    precision: Precision = Precision.FP32,
    runtime: Runtime = Runtime.ONNXRUNTIME,
    floats: str = "f32",
    reports: Mapping[str, bytes] | None = None,
    card_sources: Mapping[str, Source] | None = None,
) -> list[Path]:
    """Write the ensemble NAME and the models it is made of under ``folder``.

    An earlier build of the same name is replaced at the end, when everything new is complete. ``reports`` are
    files for people to read, kept beside the manifest, in which ``card_sources`` says where the card's fields
    come from. Returns the new folders. Raises :class:`BuildError`
    where the folder cannot be written.
    """
    with _staging(folder) as staged:
        _write_models(staged, card, prepared, target, preprocess, placement)
        described = configs(
            card,
            target=target,
            preprocess=preprocess,
            placement=placement,
            max_batch_size=1 if takes_one_picture(prepared, placement) else MAX_BATCH_SIZE,
            warmup=write_warmup(staged, card, prepared.model, placement, warmup),
            runtime=runtime,
            floats=floats,
        )
        for name, config in described.items():
            (staged / name / CONFIG).write_text(to_pbtxt(config))
        for file, content in (reports or {}).items():
            (staged / card.name / file).write_bytes(content)
        manifest = Manifest(
            name=card.name,
            card=card,
            target=target.value,
            batch_obstacle=prepared.batch_obstacle,
            versions={name: version(name) for name in _VERSIONED},
            sha256=_sha256_of_all(staged),
            measured=measured,
            card_sources={name: source.value for name, source in (card_sources or {}).items()},
            placement=placement.value,
            precision=precision.value,
            runtime=runtime.value,
            floats=floats,
        )
        (staged / card.name / MANIFEST).write_text(manifest.to_json())
        earlier = _folders_of_build(folder / card.name / MANIFEST)
        _refuse_what_is_not_ours(folder, {path.name for path in staged.iterdir()} - earlier)
        return _exchange(staged, folder, earlier=earlier)


def takes_one_picture(prepared: Prepared, placement: Placement) -> bool:
    """Whether a request may hold one picture only; the pipeline takes a batch apart."""
    return prepared.batch_obstacle is not None and placement is Placement.STEPS


def _write_models(
    staged: Path,
    card: Card,
    prepared: Prepared,
    target: Target,
    preprocess: Preprocess,
    placement: Placement,
) -> None:
    ensemble = staged / card.name / "1"
    ensemble.mkdir(parents=True)
    (ensemble / ".keep").touch()  # Triton wants the folder, git does not keep empty ones
    if placement is Placement.PIPELINE:
        _write_pipeline(staged / f"{card.name}_pipeline" / "1", prepared)
        return
    for step in ("preprocess", "detector", "postprocess"):
        version_folder = staged / f"{card.name}_{step}" / "1"
        version_folder.mkdir(parents=True)
        if step == "detector":
            import onnx

            onnx.save_model(prepared.model, version_folder / "model.onnx")
            if target is not Target.EMBEDDED:
                continue
        variant = "_dali" if step == "preprocess" and preprocess is Preprocess.DALI else ""
        if variant:
            shutil.copyfile(_STEPS / "detserve_dali.py", version_folder / "detserve_dali.py")
        shutil.copyfile(_STEPS / f"{step}{variant}_model.py", version_folder / "model.py")
        shutil.copyfile(_STEPS / f"detserve_{step}.py", version_folder / f"detserve_{step}.py")
        if step != "postprocess":
            shutil.copyfile(_STEPS / "detserve_scope.py", version_folder / "detserve_scope.py")


def _write_pipeline(version_folder: Path, prepared: Prepared) -> None:
    import onnx

    version_folder.mkdir(parents=True)
    onnx.save_model(prepared.model, version_folder / "model.onnx")
    shutil.copyfile(_STEPS / "pipeline_model.py", version_folder / "model.py")
    for step in ("scope", "queue", "preprocess", "detector", "postprocess"):
        shutil.copyfile(_STEPS / f"detserve_{step}.py", version_folder / f"detserve_{step}.py")


def _sha256_of_all(staged: Path) -> dict[str, str]:
    files = sorted(path for path in staged.rglob("*") if path.is_file() and path.name != ".keep")
    return {path.relative_to(staged).as_posix(): file_sha256(path) for path in files}


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """A folder beside the repository, on the same file system, where Triton does not look."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, os.strerror(13))
        staged = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.resolve().parent))
    except OSError as error:
        raise BuildError(f"{folder}: the repository cannot be written ({error.strerror})") from None
    try:
        yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _folders_of_build(manifest: Path) -> set[str]:
    """The model folders that an earlier build wrote, by its manifest; none where there is no manifest."""
    try:
        return {Path(file).parts[0] for file in json.loads(manifest.read_bytes())["sha256"]}
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return set()


def _refuse_what_is_not_ours(folder: Path, names: set[str]) -> None:
    """Raise :class:`BuildError` for a folder in the way that no earlier build of this name wrote."""
    for name in sorted(names):
        if (folder / name).exists():
            raise BuildError(
                f"{folder / name} is there already and not of an earlier build of this name; take another "
                "--name or --repository, or remove it"
            )


def _exchange(staged: Path, folder: Path, earlier: set[str]) -> list[Path]:
    """Rename the new folders into place of the ``earlier`` ones; any failure puts the old ones back."""
    old = staged / ".old"
    old.mkdir()
    moved: list[tuple[Path, Path]] = []
    new = sorted(path for path in staged.iterdir() if path != old)
    try:
        for name in sorted(earlier | {path.name for path in new}):
            if (folder / name).exists():
                (folder / name).rename(old / name)
                moved.append((old / name, folder / name))
        for source in new:
            destination = folder / source.name
            source.rename(destination)
            moved.append((destination, source))
    except BaseException as error:  # Ctrl-C too
        for now, before in reversed(moved):
            now.rename(before)
        if not isinstance(error, OSError):
            raise
        raise BuildError(f"{folder}: the new build cannot be put in place ({error.strerror})") from None
    return [folder / source.name for source in new]
