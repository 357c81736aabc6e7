"""Reading ``NAME/detserve.json``, the manifest a build leaves beside the ensemble."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from detserve_core.errors import ManifestError

MANIFEST = "detserve.json"
_PYCACHE = "__pycache__"


@dataclass(frozen=True)
class Manifest:
    """What one detector was built from and with.

    ``sha256`` maps files, relative to the repository, to their hash; ``versions`` maps packages to the
    version that built the repository.
    """

    name: str
    target: str
    sha256: dict[str, str]
    versions: dict[str, str]


def read_manifests(repository: Path) -> list[Manifest]:
    """Every detector's manifest; raises :class:`ManifestError` for a file that is none."""
    return [_read(path) for path in sorted(repository.glob(f"*/{MANIFEST}"))]


def _read(path: Path) -> Manifest:
    if not path.is_file():  # a pipe would be waited for
        raise ManifestError(f"{path} is no file; build the model again")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Manifest(
            name=path.parent.name,
            target=str(content["target"]),
            sha256={_inside(file): str(digest) for file, digest in content["sha256"].items()},
            versions={str(package): str(version) for package, version in content["versions"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ManifestError(f"{path} is no manifest of a build ({error!r}); build the model again") from None


def _inside(name: str) -> str:
    """The name of a file below the repository; raises ValueError for another."""
    path = PurePosixPath(name)
    if not name.isprintable() or path.is_absolute() or ".." in path.parts or len(path.parts) < 2:
        raise ValueError(f"{name!a} is no file of a model")
    return name


def folders(manifest: Manifest) -> list[str]:
    """The model folders of this detector."""
    return sorted({manifest.name, *(file.partition("/")[0] for file in manifest.sha256)})


def built_files(manifest: Manifest) -> set[str]:
    """What a build leaves in these folders, the manifest itself included."""
    return {*manifest.sha256, f"{manifest.name}/{MANIFEST}", f"{manifest.name}/1/.keep"}


def foreign_files(repository: Path, manifest: Manifest) -> list[str]:
    """What else lies in these folders, links to folders included.

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
    return [file for file, digest in manifest.sha256.items() if _sha256(repository / file) != digest]


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    except OSError:
        return ""
