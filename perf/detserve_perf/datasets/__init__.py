"""Annotated pictures of COCO, YOLO or Pascal VOC, read one picture at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detserve_perf.datasets.base import AnnotatedPicture, Dataset
from detserve_perf.datasets.coco import coco_dataset
from detserve_perf.datasets.voc import voc_dataset
from detserve_perf.datasets.yolo import yolo_dataset
from detserve_perf.errors import MeasurementError

__all__ = ["AnnotatedPicture", "Dataset", "open_dataset"]

_EXPECTED = (
    "a COCO json file, a folder with images/ and labels/ (YOLO) or one with Annotations/*.xml (Pascal VOC)"
)


def open_dataset(path: Path, images: Path | None, labels: Sequence[str]) -> Dataset:
    """Recognise a dataset and read all of it once, so that a mistake in its last file shows at once.

    Args:
        path: a COCO json file, or a folder holding ``images/`` and ``labels/`` (YOLO) or ``Annotations/``
            (Pascal VOC).
        images: the folder of the pictures; None is where the format has them.
        labels: the detector's, which a YOLO folder without class names counts by.

    Raises:
        MeasurementError: the path is none of the three, a file is absent or malformed, or there is no box.
    """
    if images is not None and not images.is_dir():
        raise MeasurementError(f"{images} is no folder; --images takes the folder of the dataset's pictures")
    if path.is_file():
        dataset = coco_dataset(path, images)
    elif (path / "labels").is_dir():
        dataset = yolo_dataset(path, images, labels)
    elif (path / "Annotations").is_dir():
        dataset = voc_dataset(path, images)
    elif path.exists():
        raise MeasurementError(f"{path} is no dataset; expected {_EXPECTED}")
    else:
        raise MeasurementError(f"there is no {path}; expected {_EXPECTED}")
    if sum(len(picture.classes) for picture in dataset.read()) == 0:
        raise MeasurementError(
            f"{path} annotates {dataset.pictures} pictures with no box at all; average precision needs boxes"
        )
    return dataset
