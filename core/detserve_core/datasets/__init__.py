"""Annotated pictures of COCO, YOLO or Pascal VOC, read one picture at a time, and what scores them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detserve_core.datasets.coco import coco_dataset
from detserve_core.datasets.dataset import AnnotatedPicture, Dataset, shown, upright_size_wh
from detserve_core.datasets.errors import DatasetError
from detserve_core.datasets.voc import voc_dataset
from detserve_core.datasets.yolo import is_yaml, yolo_dataset

__all__ = ["AnnotatedPicture", "Dataset", "open_dataset"]

_EXPECTED = (
    "a COCO json file, a data.yaml or a folder with images/ and labels/ (YOLO), or a folder with "
    "Annotations/*.xml (Pascal VOC)"
)
_ROUNDED_PX = 2
_LEAST_REACH_PX = 2  # fractions reach 1, and VOC's one pixel more
_OUT_SHARE = 0.1  # of the picture's side
_MAX_OUT_SHARE = 0.25  # of the boxes: of corners taken for sizes it is half and more


def open_dataset(path: Path, images: Path | None, labels: Sequence[str]) -> Dataset:
    """Recognise a dataset and read all of it once, so that a mistake in its last file shows at once.

    Args:
        path: a COCO json file; a ``data.yaml`` or a folder with ``images/`` and ``labels/``, or with text
            files beside the pictures (YOLO); a folder with ``Annotations/`` or xml files (Pascal VOC).
        images: the folder of the pictures; None is where the format has them.
        labels: the detector's, which a YOLO folder without class names counts by.

    Raises:
        DatasetError: the path is none of these, a file is absent or malformed, there is no box, or the boxes
            are not of these pictures.
    """
    if images is not None and not images.is_dir():
        raise DatasetError(f"{images} is not a folder; --images takes the folder of the dataset's pictures")
    if path.is_file():
        dataset = yolo_dataset(path, images, labels) if is_yaml(path) else coco_dataset(path, images)
    elif (path / "labels").is_dir() or (path / "data.yaml").is_file():
        dataset = yolo_dataset(path, images, labels)
    elif (path / "Annotations").is_dir() or any(path.glob("*.xml")):
        dataset = voc_dataset(path, images)
    elif any(path.glob("*.txt")):
        dataset = yolo_dataset(path, images, labels)
    elif path.exists():
        raise DatasetError(f"{path} is not a dataset; expected {_EXPECTED}")
    else:
        raise DatasetError(f"there is no {path}; expected {_EXPECTED}")
    notes = _require_boxes_of_the_pictures(dataset)
    return replace(dataset, notes=(*dataset.notes, *notes))


def _require_boxes_of_the_pictures(dataset: Dataset) -> tuple[str, ...]:
    """Notes; raises :class:`DatasetError` where scoring would go on and its figure mean nothing."""
    boxes = out = unturned = 0
    reach_px, first_out = 0.0, ""
    for picture in dataset.read():
        boxes += len(picture.classes)
        corners = picture.boxes_xywh[:, :2] + picture.boxes_xywh[:, 2:]
        reach_px = max(reach_px, float(corners.max(initial=0)))
        size_wh = _size_wh(picture, dataset)
        if size_wh and picture.said_wh not in (None, size_wh):
            unturned += 1
            _require_upright_boxes(picture, size_wh, dataset)
        far = picture.boxes_xywh[_far_out(picture, size_wh)] if size_wh else picture.boxes_xywh[:0]
        out += len(far)
        if size_wh and len(far) and not first_out:
            box = [round(float(n), 1) for n in far[0]]
            first_out = f"{box} in {shown(picture.path.name)}, which is {size_wh[0]}x{size_wh[1]}"
    if boxes == 0:
        raise DatasetError(
            f"{dataset.path} annotates {dataset.pictures} pictures with no box at all"
            f"{''.join(f' ({note})' for note in dataset.notes)}; average precision needs boxes"
        )
    if reach_px <= _LEAST_REACH_PX:
        raise DatasetError(
            f"{dataset.path}: no box reaches beyond {_LEAST_REACH_PX} pixels, as fractions would; "
            f"expected pixels of the picture, as {dataset.format} has them"
        )
    if out > _MAX_OUT_SHARE * boxes:
        raise DatasetError(
            f"{dataset.path}: {out} of {boxes} boxes reach far out of their pictures, {first_out} "
            "for one; expected left, top, width and height, not right and bottom, and as --images the "
            "pictures that were annotated"
        )
    if not unturned:
        return ()
    return (
        f"{unturned} of {dataset.pictures} pictures have a width and height in the labels that are those of "
        "the picture lying on its side; the boxes fit the upright one, and count in it",
    )


def _require_upright_boxes(picture: AnnotatedPicture, size_wh: tuple[int, int], dataset: Dataset) -> None:
    """Raise :class:`DatasetError` where a picture that the labels have on its side has its boxes so too."""
    corners = picture.boxes_xywh[:, :2] + picture.boxes_xywh[:, 2:]
    out = (corners > np.add(size_wh, _ROUNDED_PX)).any(1)
    if out.any():
        box = [round(float(n), 1) for n in picture.boxes_xywh[out][0]]
        said = "x".join(map(str, picture.said_wh or ()))
        raise DatasetError(
            f"{dataset.path}: {shown(picture.path.name)} is {size_wh[0]}x{size_wh[1]} upright, but its label "
            f"says {said} and has the box {box}, which is of the picture on its side; give boxes of the "
            "upright pictures, or as --images the pictures without EXIF's orientation"
        )


def _far_out(picture: AnnotatedPicture, size_wh: tuple[int, int]) -> NDArray[np.bool_]:
    """Bool ``(n,)``: the boxes that reach out of the picture by a good part of its side."""
    corners = picture.boxes_xywh[:, :2] + picture.boxes_xywh[:, 2:]
    low, high = np.multiply(size_wh, -_OUT_SHARE), np.multiply(size_wh, 1 + _OUT_SHARE)
    far: NDArray[np.bool_] = ((picture.boxes_xywh[:, :2] < low) | (corners > high)).any(1)
    return far


def _size_wh(picture: AnnotatedPicture, dataset: Dataset) -> tuple[int, int] | None:
    """Of the upright picture; None where its header cannot be read, which the detector will say."""
    try:
        width, height = upright_size_wh(picture.path)
    except DatasetError:
        return None
    if picture.said_wh not in (None, (width, height), (height, width)):
        said = "x".join(map(str, picture.said_wh or ()))
        raise DatasetError(
            f"{dataset.path}: {shown(picture.path.name)} is {width}x{height}, but its label says {said}; "
            "give the pictures that were annotated as --images, or fix width and height"
        )
    return width, height
