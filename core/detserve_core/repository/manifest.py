"""``NAME/detserve.json``: what a detector was built from and with, beside its ensemble."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from detserve_core.card import Card
from detserve_core.errors import RepositoryError
from detserve_core.machine.sha256 import file_sha256

MANIFEST = "detserve.json"
_PYCACHE = "__pycache__"


def _below_a_model(name: str) -> str:
    path = PurePosixPath(name)
    if not name.isprintable() or path.is_absolute() or ".." in path.parts or len(path.parts) < 2:
        raise ValueError(f"{name!a} is not a file of a model")
    return name


class Manifest(BaseModel):
    """One build.

    Attributes:
        name: of the ensemble and of its folder; it is not in the file.
        target: what runs the detector: embedded, onnxruntime or tensorrt.
        batch_obstacle: why the network takes one picture at a time; None where it takes more.
        versions: package -> the version that built the repository.
        sha256: file, relative to the repository -> its hash.
        measured: what the precision search measured.
        card_sources: field of the card -> who says it.
        placement: ``pipeline``, one model for all steps, or ``steps``.
        precision: that of the weights and activations, as chosen.
        runtime: the library that runs the embedded target's detector.
        floats: what it computes in where the network has floats.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(exclude=True)
    schema_version: Literal[1] = 1
    card: Card
    target: str
    batch_obstacle: str | None
    versions: dict[str, str]
    sha256: dict[Annotated[str, AfterValidator(_below_a_model)], str]
    measured: dict[str, Any]
    card_sources: dict[str, str]
    placement: str
    precision: str
    runtime: str
    floats: str

    def to_json(self) -> str:
        """Text of ``detserve.json``."""
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"


def read_manifests(repository: Path) -> list[Manifest]:
    """Every detector's manifest, in order of name; raises :class:`RepositoryError` for another file."""
    return [_read(path) for path in sorted(repository.glob(f"*/{MANIFEST}"))]


def read_manifest(repository: Path, name: str) -> Manifest:
    """One detector's manifest; raises :class:`RepositoryError` where there is none."""
    path = repository / name / MANIFEST
    if not path.exists():
        built = ", ".join(sorted(one.parent.name for one in repository.glob(f"*/{MANIFEST}")))
        raise RepositoryError(f"{repository} has no detector {name}; it holds {built or 'none'}")
    return _read(path)


def _read(path: Path) -> Manifest:
    if not path.is_file():  # a pipe would be waited for
        raise RepositoryError(f"{path} is not a file; build the model again")
    try:
        return Manifest.model_validate({**json.loads(path.read_bytes()), "name": path.parent.name})
    except ValidationError as error:
        first = error.errors()[0]
        fields = ".".join(map(str, first["loc"]))
        raise RepositoryError(
            f"{path} is not a manifest of a build ({fields}: {first['msg']}); build the model again"
        ) from None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise RepositoryError(
            f"{path} is not a manifest of a build ({error}); build the model again"
        ) from None


def folders(manifest: Manifest) -> list[str]:
    """The model folders of this detector."""
    return sorted({manifest.name, *(file.partition("/")[0] for file in manifest.sha256)})


def built_files(manifest: Manifest) -> set[str]:
    """What a build leaves in these folders, the manifest itself included."""
    return {*manifest.sha256, f"{manifest.name}/{MANIFEST}", f"{manifest.name}/1/.keep"}


def foreign_files(repository: Path, manifest: Manifest) -> list[str]:
    """What else is in these folders, links to folders included.

    ``__pycache__``, which Python writes, is left out, and so are the plans of TensorRT and their sidecars.
    """
    found = []
    for name in folders(manifest):
        for above, below, files in os.walk(repository / name):
            links = [folder for folder in below if (Path(above) / folder).is_symlink()]
            below[:] = [folder for folder in below if folder != _PYCACHE]
            found += [(Path(above) / file).relative_to(repository).as_posix() for file in [*files, *links]]
    return sorted(set(found) - built_files(manifest) - _plans(manifest, found))


def _plans(manifest: Manifest, files: list[str]) -> set[str]:
    """Those of ``files`` that detserve engine writes."""
    if manifest.target != "tensorrt":
        return set()
    plan = re.compile(rf"{re.escape(manifest.name)}_detector/\d+/[^/]+\.plan(?:\.json)?")
    return {file for file in files if plan.fullmatch(file)}


def missing_folders(repository: Path, manifest: Manifest) -> list[str]:
    """The model folders of this detector that have no ``config.pbtxt``."""
    return [name for name in folders(manifest) if not (repository / name / "config.pbtxt").is_file()]


def changed_files(repository: Path, manifest: Manifest) -> list[str]:
    """The files that are missing or no longer what the build wrote."""
    return [file for file, digest in manifest.sha256.items() if file_sha256(repository / file) != digest]
