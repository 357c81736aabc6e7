"""COCO's ``instances.json``."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from detserve_perf.datasets.base import AnnotatedPicture, Dataset, require_pictures
from detserve_perf.errors import MeasurementError

_FIELDS = {
    "images": ("id", "file_name"),
    "annotations": ("image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}


def coco_dataset(path: Path, images: Path | None) -> Dataset:
    """Read the annotations; they stay in memory at 60 bytes a box, without their segmentations.

    Without ``images`` the pictures are in ``images/`` beside the file if there is such a folder, else beside
    the file itself. Classes are the categories in the order of their ids, pictures come in that of theirs.

    Raises:
        MeasurementError: the file is no COCO, contradicts itself, or a picture is absent.
    """
    content = _load(path)
    beside = path.parent / "images"
    images = images or (beside if beside.is_dir() else path.parent)
    categories = sorted(content["categories"], key=lambda category: category["id"])
    entries = sorted(content["images"], key=lambda image: image["id"])
    paths = [images / image["file_name"] for image in entries]
    require_pictures(paths, images)

    annotations = content["annotations"]
    picture = _positions(annotations, "image_id", entries, "images", path)
    classes = _positions(annotations, "category_id", categories, "categories", path)
    boxes = np.array([a["bbox"] for a in annotations], np.float64)
    areas = np.array([_area(a) for a in annotations], np.float64)
    crowd = np.array([a.get("iscrowd", 0) for a in annotations], np.bool_)
    order = np.argsort(picture, kind="stable")
    starts = np.searchsorted(picture[order], np.arange(len(paths) + 1))

    def read() -> Iterator[AnnotatedPicture]:
        for position, file in enumerate(paths):
            rows = order[starts[position] : starts[position + 1]]
            yield AnnotatedPicture(
                file, boxes[rows], classes[rows], areas[rows], crowd[rows], np.zeros(len(rows), np.bool_)
            )

    return Dataset(path, "COCO", tuple(c["name"] for c in categories), len(paths), read)


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes(), object_hook=_without_segmentation)
    except OSError as error:
        raise MeasurementError(
            f"{path} cannot be read ({error.strerror}); expected a COCO instances.json"
        ) from None
    except ValueError as error:
        raise MeasurementError(f"{path} is no JSON ({error}); expected a COCO instances.json") from None
    for key, fields in _FIELDS.items():
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise MeasurementError(f"{path} has no list {key!r}; expected a COCO instances.json")
        if not entries:
            raise MeasurementError(f"{path} is empty: its list {key!r} has no entry")
        for position, entry in enumerate(entries):
            missing = [f for f in fields if not isinstance(entry, dict) or f not in entry]
            if missing:
                raise MeasurementError(
                    f"{path}: {key}[{position}] has no {missing[0]!r}; expected COCO's format"
                )
            for field in fields:
                is_right, expected = _RIGHT[field]
                if not is_right(entry[field]):
                    raise MeasurementError(
                        f"{path}: {key}[{position}] has the {field} {entry[field]!r}; expected {expected}"
                    )
    return dict(content)


def _without_segmentation(entry: dict[str, Any]) -> dict[str, Any]:
    entry.pop("segmentation", None)  # outlines are most of the file, and boxes are all that is scored
    return entry


def _is_box(bbox: object) -> bool:
    if not (isinstance(bbox, list) and len(bbox) == 4 and all(isinstance(n, (int, float)) for n in bbox)):
        return False
    return all(map(math.isfinite, bbox)) and bbox[2] >= 0 and bbox[3] >= 0


def _is_id(value: object) -> bool:
    return isinstance(value, int)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


_RIGHT: dict[str, tuple[Callable[[object], bool], str]] = {
    "id": (_is_id, "a whole number"),
    "image_id": (_is_id, "a whole number"),
    "category_id": (_is_id, "a whole number"),
    "file_name": (_is_text, "text"),
    "name": (_is_text, "text"),
    "bbox": (_is_box, "x, y, width, height"),
}


def _area(annotation: Mapping[str, Any]) -> float:
    """The outline's area where it is given, else the box's."""
    area = annotation.get("area")
    return float(area) if isinstance(area, (int, float)) else annotation["bbox"][2] * annotation["bbox"][3]


def _positions(
    annotations: list[Mapping[str, Any]], field: str, entries: list[Mapping[str, Any]], key: str, path: Path
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Where in ``entries`` each annotation's ``field`` is found; int64 ``(n,)``."""
    by_id = {entry["id"]: position for position, entry in enumerate(entries)}
    if len(by_id) < len(entries):
        raise MeasurementError(f"{path}: two entries of {key!r} have the same id; expected one of each")
    for position, annotation in enumerate(annotations):
        if annotation[field] not in by_id:
            raise MeasurementError(
                f"{path}: annotations[{position}] has the {field} {annotation[field]!r}, "
                f"which is the id of none of {key!r}"
            )
    return np.array([by_id[annotation[field]] for annotation in annotations], np.int64)
