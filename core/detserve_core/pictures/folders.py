"""What lies in a folder: links to folders are entered; pictures are known by name or by their first bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from detserve_core.errors import SourceError

PICTURE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


def files_below(folder: Path) -> list[Path]:
    """Every file, in alphabetical order. A link to a folder is entered, but not one back to where it lies.

    Raises:
        SourceError: a folder cannot be read.
    """
    return sorted(_walk(folder, ()))


def is_picture(path: Path) -> bool:
    """A file with a picture's suffix, or with none and a picture's first bytes.

    macOS leaves ``._NAME.jpg`` beside pictures, which holds no pixels.
    """
    if path.name.startswith("._") or not path.is_file():
        return False
    return path.suffix.lower() in PICTURE_SUFFIXES or (path.suffix == "" and _begins_as_picture(path))


def _walk(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    try:
        real = folder.resolve()
    except (OSError, RuntimeError):  # a link to itself
        return
    if real in above:
        return
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise SourceError(f"the folder {str(folder)!r} cannot be read: {error.strerror}") from None
    for entry in entries:
        path = folder / entry.name
        if path.is_dir():
            yield from _walk(path, (*above, real))
        else:
            yield path


def _begins_as_picture(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(12)
    except OSError:
        return False
    if start.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")):
        return True
    return (start[:4] == b"RIFF" and start[8:] == b"WEBP") or (start[:2] == b"BM" and start[6:10] == bytes(4))
