"""From a checkpoint to a detector that can be served: ``detserve.build``."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from detserve_core.errors import MissingExtra
from detserve_core.machine.cache import cache_folder, made_in_cache

if TYPE_CHECKING:
    from detserve_builder.build import Built

_NEEDED = {
    "onnx": "onnx",
    "onnx_graphsurgeon": "onnx-graphsurgeon",
    "onnxruntime": "onnxruntime",
    "cv2": "opencv-python",
}


@dataclass(frozen=True)
class Detector:
    """A detector that was built: its ``name`` in the model ``repository``."""

    name: str
    repository: Path


def build(
    checkpoint: str | Path,
    *,
    name: str | None = None,
    repository: str | Path | None = None,
    card: str | Path | None = None,
    input_wh: tuple[int, int] | None = None,
) -> Detector:
    """Build a checkpoint into a model repository; ``detserve build`` does the same and takes more options.

    What the file does not say and detserve guesses is in a ``UserWarning``.

    Args:
        checkpoint: an .onnx file, a Darknet .cfg beside its .weights, or the name of a detector of the zoo.
        name: what to serve it as; None is the file's.
        repository: where to write it; None is a folder for this checkpoint in ``~/.cache/detserve``.
        card: a JSON file with the card's fields that you say yourself.
        input_wh: width and height of the network's input, where the file leaves them open.

    Raises:
        BuildError: the checkpoint cannot be read or is not a detector that detserve knows.
        CardError: the card contradicts the network.
        MissingExtra: a library that builds is not installed.
    """
    for module, library in _NEEDED.items():
        if find_spec(module) is None:
            raise MissingExtra(library, "builder")
    from detserve_builder.build import build as build_repository
    from detserve_builder.build import name_of

    folder = _folder(checkpoint) if repository is None else Path(repository)
    detector = Detector(name or name_of(checkpoint), folder)
    built = build_repository(
        str(checkpoint),
        name=detector.name,
        repository=detector.repository,
        card_path=None if card is None else Path(card),
        input_wh=input_wh,
    )
    if doubts := "\n".join(_doubts(built)):
        warnings.warn(f"{checkpoint} does not say all that a detector needs\n{doubts}", stacklevel=2)
    return detector


def detectors_in(repository: Path) -> list[Detector]:
    """The detectors that were built into a model repository, by name; none where there is no such folder."""
    from detserve_core.repository.manifest import MANIFEST

    return [Detector(path.parent.name, repository) for path in sorted(repository.glob(f"*/{MANIFEST}"))]


def detectors_in_cache() -> list[Detector]:
    """What :func:`build` has built without being told where."""
    return [detector for folder in sorted(_cache().glob("*")) for detector in detectors_in(folder)]


def _doubts(built: Built) -> Iterator[str]:
    from detserve_builder.commands.card_table import DECIDE_GUESSES, guess_lines

    yield from (str(line) for line in guess_lines(built.inferred))
    if built.inferred.guesses:
        yield DECIDE_GUESSES
    yield from built.outcome.notes


def _cache() -> Path:
    return cache_folder() / "repositories"


def _folder(checkpoint: str | Path) -> Path:
    """One for each checkpoint: two files of one name are two detectors."""
    where = Path(checkpoint).resolve() if Path(checkpoint).is_file() else checkpoint  # a name of the zoo
    return made_in_cache(_cache()) / hashlib.sha256(os.fsencode(where)).hexdigest()[:16]
