"""What every dataset format becomes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detserve_perf.errors import MeasurementError


@dataclass(frozen=True)
class AnnotatedPicture:
    """The boxes that somebody drew into one picture.

    Attributes:
        path: the picture.
        boxes_xywh: float64 ``(n, 4)``, left, top, width, height in pixels of the upright picture.
        classes: int64 ``(n,)``, indices into the dataset's labels.
        areas_px: float64 ``(n,)``, what a box counts as small, medium or large by.
        crowd: bool ``(n,)``, boxes around many objects: neither found nor missed, and what lies in them is
            no mistake.
        difficult: bool ``(n,)``, objects that count neither as found nor as missed.
    """

    path: Path
    boxes_xywh: NDArray[np.float64]
    classes: NDArray[np.int64]
    areas_px: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    difficult: NDArray[np.bool_]


@dataclass(frozen=True)
class Dataset:
    """Annotated pictures. ``read`` goes through them anew at each call, holding one at a time."""

    path: Path
    format: str
    labels: tuple[str, ...]
    pictures: int
    read: Callable[[], Iterator[AnnotatedPicture]]
    notes: tuple[str, ...] = ()


def plain_boxes(
    path: Path, boxes_xywh: Sequence[Sequence[float]], classes: Sequence[int], difficult: Sequence[bool] = ()
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
    )


def require_pictures(paths: Sequence[Path], images: Path) -> None:
    """Raise :class:`MeasurementError` when there is none, or one is absent."""
    if not paths:
        raise MeasurementError(f"the dataset is empty: it annotates no picture of {images}")
    absent = [path for path in paths if not path.is_file()]
    if absent:
        raise MeasurementError(
            f"{len(absent)} of {len(paths)} annotated pictures are not in {images}, "
            f"{absent[0].name} for one; give the annotations' own pictures as --images"
        )
