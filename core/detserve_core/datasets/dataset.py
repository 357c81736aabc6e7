"""What every dataset format becomes, and the pictures that its annotations are of."""

from __future__ import annotations

import hashlib
import mmap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from detserve_core.datasets.errors import DatasetError
from detserve_core.errors import MissingExtra
from detserve_core.pictures.upright import QUARTER_TURNS, exif_orientation

MAX_SIDE_PX = 100_000  # no picture that is served is as wide or high


@dataclass(frozen=True)
class AnnotatedPicture:
    """The boxes that somebody drew into one picture.

    Attributes:
        path: the picture.
        boxes_xywh: float64 ``(n, 4)``, left, top, width, height in pixels of the upright picture.
        classes: int64 ``(n,)``, indices into the dataset's labels.
        areas_px: float64 ``(n,)``, what a box counts as small, medium or large by.
        crowd: bool ``(n,)``, boxes around many objects: neither found nor missed, and what is in them is
            no mistake.
        difficult: bool ``(n,)``, objects that count neither as found nor as missed.
        said_wh: the picture's width and height in pixels as the annotations have them, or None.
    """

    path: Path
    boxes_xywh: NDArray[np.float64]
    classes: NDArray[np.int64]
    areas_px: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    difficult: NDArray[np.bool_]
    said_wh: tuple[int, int] | None = None


@dataclass(frozen=True)
class Dataset:
    """Annotated pictures. ``read`` goes through them anew at each call, holding one at a time.

    ``files`` are those that the annotations were read from.
    """

    path: Path
    format: str
    labels: tuple[str, ...]
    pictures: int
    read: Callable[[], Iterator[AnnotatedPicture]]
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    def sha256(self) -> str:
        """Of the annotations' bytes: of the file where it is one, and else of all, one behind the other."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(file.read_bytes())
        return digest.hexdigest()


def plain_boxes(
    path: Path,
    boxes_xywh: Sequence[Sequence[float]],
    classes: Sequence[int],
    difficult: Sequence[bool] = (),
    said_wh: tuple[int, int] | None = None,
) -> AnnotatedPicture:
    """A picture whose areas are its boxes' and which has no crowds; without ``difficult`` no box is."""
    boxes = np.asarray(boxes_xywh, np.float64).reshape(-1, 4)
    return AnnotatedPicture(
        path=path,
        boxes_xywh=boxes,
        classes=np.asarray(classes, np.int64),
        areas_px=boxes[:, 2] * boxes[:, 3],
        crowd=np.zeros(len(boxes), np.bool_),
        difficult=np.asarray(difficult, np.bool_) if difficult else np.zeros(len(boxes), np.bool_),
        said_wh=said_wh,
    )


def is_file(path: Path) -> bool:
    """As :meth:`Path.is_file`, and False for a name that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, a NUL
        return False


def exists(path: Path) -> bool:
    """As :meth:`Path.exists`, and False for a name that no file can have."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def parts_below(name: str) -> tuple[str, ...]:
    """The folders and the file in a ``file_name``, which may be of Windows or begin at the root."""
    return tuple(part for part in PurePosixPath(name.strip().replace("\\", "/")).parts if part != "/")


def named_picture(images: Path, name: str) -> Path:
    """The picture that annotations name: its path below ``images``, or, moved there, the last part of it."""
    parts = parts_below(name)
    whole, moved = images.joinpath(*parts), images.joinpath(*parts[-1:])
    return moved if is_file(moved) and not is_file(whole) else whole


def require_pictures(paths: Sequence[Path], images: Path) -> None:
    """Raise :class:`DatasetError` when there is none, one is absent, or one is annotated twice."""
    if not paths:
        raise DatasetError(f"the dataset is empty: it annotates no picture of {images}")
    absent = [path for path in paths if not is_file(path)]
    if absent:
        raise DatasetError(
            f"{len(absent)} of {len(paths)} annotated pictures are not in {images}, "
            f"{shown(absent[0].name)} for one; give the annotations' own pictures as --images"
        )
    path, times = Counter(paths).most_common(1)[0]
    if times > 1:
        raise DatasetError(
            f"{path} is annotated {times} times; expected all of a picture's boxes in one entry"
        )


def shown(value: object) -> str:
    """What a file holds, for a sentence: on one line, not long, and without what cannot be printed."""
    text = value if isinstance(value, str) and value.isprintable() and value.strip() else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def upright_size_wh(path: Path) -> tuple[int, int]:
    """Width and height in pixels after EXIF's turn, from the file's header alone."""
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtra("pillow", "perf") from None
    try:
        with path.open("rb") as file, Image.open(file) as picture:
            width, height = picture.size
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as encoded:
                turned = exif_orientation(encoded) in QUARTER_TURNS
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DatasetError(
            f"{path} cannot be read as a picture: {error}; expected a JPEG, PNG, WebP or BMP"
        ) from None
    return (height, width) if turned else (width, height)
