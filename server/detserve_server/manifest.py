"""Reading ``NAME/detserve.json``, the manifest a build leaves beside the ensemble."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detserve_server.errors import ManifestError

MANIFEST = "detserve.json"


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
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Manifest(
            name=path.parent.name,
            target=str(content["target"]),
            sha256={str(file): str(digest) for file, digest in content["sha256"].items()},
            versions={str(package): str(version) for package, version in content["versions"].items()},
        )
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ManifestError(f"{path} is no manifest of a build ({error!r}); build the model again") from None


def missing_folders(repository: Path, manifest: Manifest) -> list[str]:
    """The model folders of this detector that have no ``config.pbtxt``."""
    names = {manifest.name, *(file.partition("/")[0] for file in manifest.sha256)}
    return [name for name in sorted(names) if not (repository / name / "config.pbtxt").is_file()]


def changed_files(repository: Path, manifest: Manifest) -> list[str]:
    """The files that are missing or no longer what the build wrote."""
    return [file for file, digest in manifest.sha256.items() if _sha256(repository / file) != digest]


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
