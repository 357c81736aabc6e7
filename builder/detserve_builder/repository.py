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
from detserve_builder.triton_config import Placement, Preprocess, Target, configs, steps_of, warmed_up
from detserve_builder.warmup import WarmupPicture, write_warmup
from detserve_core.card import Card
from detserve_core.machine import cores
from detserve_core.machine.sha256 import file_sha256
from detserve_core.pictures import upright
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
        steps = steps_of(target, placement, preprocess)
        _write_models(staged, card.name, prepared, target, preprocess, steps)
        # A pipeline takes a request's pictures apart.
        batch_size = 1 if prepared.batch_obstacle is not None else MAX_BATCH_SIZE
        described = configs(
            card,
            target=target,
            preprocess=preprocess,
            placement=placement,
            max_batch_size=MAX_BATCH_SIZE,
            detector_batch_size=batch_size,
            warmup=write_warmup(
                staged, card, prepared.model, warmed_up(target, placement, preprocess), warmup
            ),
            cores=cores.cores(),
            runtime=runtime,
            floats=floats,
            precision=precision.value,
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
    name: str,
    prepared: Prepared,
    target: Target,
    preprocess: Preprocess,
    steps: tuple[str, ...],
) -> None:
    import onnx

    ensemble = staged / name / "1"
    ensemble.mkdir(parents=True)
    (ensemble / ".keep").touch()  # Triton wants the folder, git does not keep empty ones
    for step in steps:
        folder = staged / f"{name}_{step}" / "1"
        folder.mkdir(parents=True)
        if step == "detector" or steps == ("pipeline",):
            onnx.save_model(prepared.model, folder / "model.onnx")
        if step == "detector" and target is not Target.EMBEDDED:
            continue
        on_dali = step == "preprocess" and preprocess is Preprocess.DALI
        model = "preprocess_dali" if on_dali else step
        shutil.copyfile(_STEPS / "models" / f"{model}.py", folder / "model.py")
        for file in _files_beside(model, calls="detector" in steps):
            shutil.copyfile(_source_of(file), folder / f"detserve_{file}.py")


def _files_beside(model: str, *, calls: bool) -> tuple[str, ...]:
    """What a model.py imports of ``steps/``; a pipeline ``calls`` the network or opens it."""
    return {
        "pipeline": ("requests", "cores", "queue", "metrics", "scope", "preprocess", "upright", "postprocess")
        + (("calls",) if calls else ("detector",)),
        "preprocess": ("requests", "cores", "queue", "metrics", "scope", "preprocess", "upright"),
        "preprocess_dali": ("metrics", "scope", "dali", "preprocess", "upright"),
        "detector": ("scope", "detector"),
        "postprocess": ("metrics", "postprocess"),
    }[model]


def _source_of(file: str) -> Path:
    """Of ``steps/``, but for what other packages run too."""
    shared = {"upright": upright.__file__, "cores": cores.__file__}
    return Path(shared[file]) if file in shared else _STEPS / f"detserve_{file}.py"


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
