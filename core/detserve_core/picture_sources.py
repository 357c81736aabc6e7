"""From what a user names on the command line to the pictures meant."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from detserve_core.errors import SourceError
from detserve_core.pictures.folders import PICTURE_SUFFIXES, files_below, is_picture


@dataclass(frozen=True)
class PictureFile:
    """A picture's ``path``, and the relative ``name`` that is its own among all pictures of a run.

    What is drawn of it has a name of its own too: of ``photo`` and ``photo.jpg`` one is ``photo-2``.
    """

    path: Path
    name: Path


def expand_sources(sources: Iterable[str]) -> list[PictureFile]:
    """The pictures that files, folders and glob patterns name, each once, in the order named.

    Folders are searched through, in alphabetical order, those that are links too. There, a file without a
    suffix is taken where it begins as a picture does. Links to one file are as many pictures. A file named as
    such is taken whatever its suffix.

    Raises:
        SourceError: a source names no picture.
    """
    found: dict[Path, PictureFile] = {}
    taken: set[Path] = set()
    for source in sources:
        for path, name in _expand(source):
            key = path.parent.resolve() / path.name
            if key not in found:
                found[key] = PictureFile(path, _free_name(name, taken))
                taken.add(drawn_name(found[key].name))
    return list(found.values())


def drawn_name(name: Path) -> Path:
    """The name of the drawn picture: the same, with ``.jpg`` where that format is not written."""
    return name if name.suffix.lower() in PICTURE_SUFFIXES else name.with_name(f"{name.name}.jpg")


def _expand(source: str) -> Iterator[tuple[Path, Path]]:
    if not source:
        raise SourceError("got an empty path; expected pictures, folders or glob patterns")
    path = Path(source)
    if path.is_dir():
        yield from _in_folder(path)
    elif path.exists():
        yield path, Path(path.name)
    elif glob.has_magic(source):
        yield from _matching(source)
    else:
        raise SourceError(
            f"there is no file or folder {source!r}; expected pictures, folders or glob patterns"
        )


def _in_folder(folder: Path) -> Iterator[tuple[Path, Path]]:
    pictures = [path for path in files_below(folder) if is_picture(path)]
    if not pictures:
        raise SourceError(
            f"the folder {str(folder)!r} has no picture; expected {', '.join(PICTURE_SUFFIXES)}"
        )
    for path in pictures:
        yield path, path.relative_to(folder)


def _matching(pattern: str) -> Iterator[tuple[Path, Path]]:
    matches = [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207
    pictures = [path for path in matches if is_picture(path)]
    if not pictures:
        raise SourceError(f"nothing matches {pattern!r} with a suffix of {', '.join(PICTURE_SUFFIXES)}")
    for path in pictures:
        yield path, Path(path.name)


def _free_name(name: Path, taken: set[Path]) -> Path:
    free, number = name, 1
    while drawn_name(free) in taken:
        number += 1
        free = name.with_name(f"{name.stem}-{number}{name.suffix}")
    return free
