"""COCO's ``instances.json``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from detserve_core.datasets.dataset import (
    MAX_SIDE_PX,
    AnnotatedPicture,
    Dataset,
    named_picture,
    require_pictures,
    shown,
)
from detserve_core.datasets.errors import DatasetError

_OPTIONAL = ("iscrowd", "area", "width", "height")
_FIELDS = {
    "images": ("id", "file_name"),
    "annotations": ("image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}


def coco_dataset(path: Path, images: Path | None) -> Dataset:
    """Read the annotations; they stay in memory at 60 bytes a box, without their segmentations.

    Without ``images`` the pictures are in ``images/`` beside the file if there is such a folder, else beside
    the file itself. Classes are the categories in the order of their ids, pictures come in that of theirs.
    An id may be a whole number or text; 7 and "7" are the same.

    Raises:
        DatasetError: the file is not COCO, contradicts itself, or a picture is absent.
    """
    content = read_coco(path)
    beside = path.parent / "images"
    images = images or (beside if beside.is_dir() else path.parent)
    categories = sorted(content["categories"], key=lambda category: _order(category["id"]))
    entries = sorted(content["images"], key=lambda image: _order(image["id"]))
    paths = [named_picture(images, image["file_name"]) for image in entries]
    require_pictures(paths, images)

    _require_names_of_their_own([category["name"] for category in categories], path)

    annotations = content["annotations"]
    picture = _positions(annotations, "image_id", entries, "images", path)
    classes = _positions(annotations, "category_id", categories, "categories", path)
    boxes = np.array([a["bbox"] for a in annotations], np.float64)
    areas = np.array([_area(a) for a in annotations], np.float64)
    crowd = np.array([bool(a.get("iscrowd")) for a in annotations], np.bool_)
    order = np.argsort(picture, kind="stable")
    starts = np.searchsorted(picture[order], np.arange(len(paths) + 1))
    sizes = [_said_wh(image) for image in entries]

    def read() -> Iterator[AnnotatedPicture]:
        for position, file in enumerate(paths):
            rows = order[starts[position] : starts[position + 1]]
            not_difficult = np.zeros(len(rows), np.bool_)
            yield AnnotatedPicture(
                file, boxes[rows], classes[rows], areas[rows], crowd[rows], not_difficult, sizes[position]
            )

    return Dataset(path, "COCO", tuple(c["name"].strip() for c in categories), len(paths), read, (path,))


def read_coco(path: Path) -> dict[str, Any]:
    """The file's content, its three lists checked entry by entry; raises :class:`DatasetError`."""
    try:
        content = json.loads(path.read_bytes(), object_hook=_without_segmentation)
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be read ({error.strerror}); expected a COCO instances.json"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not JSON ({error}); expected a COCO instances.json") from None
    if isinstance(content, list):
        raise DatasetError(
            f"{path} is a list, as detections are written; expected a COCO instances.json, which is an "
            "object with the lists 'images', 'annotations' and 'categories'"
        )
    for key, fields in _FIELDS.items():
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise DatasetError(f"{path} has no list {key!r}; expected a COCO instances.json")
        if not entries:
            raise DatasetError(f"{path} is empty: its list {key!r} has no entry; expected one at least")
        for position, entry in enumerate(entries):
            if mistake := _mistake(entry, fields):
                raise DatasetError(f"{path}: {key}[{position}] {mistake}")
    return dict(content)


def _require_names_of_their_own(names: list[str], path: Path) -> None:
    name, times = Counter(name.strip() for name in names).most_common(1)[0]
    if times > 1:
        raise DatasetError(
            f"{path}: {times} entries of 'categories' have the name {shown(name)}; expected names that tell "
            "them apart, as classes are paired by name"
        )


def _mistake(entry: object, fields: tuple[str, ...]) -> str | None:
    if not isinstance(entry, dict):
        return f"is {shown(entry)}; expected an object with {', '.join(fields)}"
    for field in fields:
        if field not in entry:
            return f"has no {field!r}; expected COCO's {', '.join(fields)}"
    for field in (*fields, *_OPTIONAL):
        is_right, expected = _RIGHT[field]
        if field in entry and not is_right(entry[field]):
            return f"has the {field} {shown(entry[field])}; expected {expected}"
    return None


def _without_segmentation(entry: dict[str, Any]) -> dict[str, Any]:
    entry.pop("segmentation", None)  # outlines are most of the file, and boxes are all that is scored
    return entry


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_box(bbox: object) -> bool:
    if not (isinstance(bbox, list) and len(bbox) == 4 and all(map(_is_number, bbox))):
        return False
    return all(abs(n) <= MAX_SIDE_PX for n in bbox) and bbox[2] >= 0 and bbox[3] >= 0


def _is_id(value: object) -> bool:
    if isinstance(value, float):
        return value.is_integer()
    return _is_text(value) or (isinstance(value, int) and not isinstance(value, bool))


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_number_or_none(value: object) -> bool:
    return value is None or _is_number(value)


def _is_flag(value: object) -> bool:
    return value in (0, 1, None)


_ID = (_is_id, "a whole number or text")
_RIGHT: dict[str, tuple[Callable[[object], bool], str]] = {
    "id": _ID,
    "image_id": _ID,
    "category_id": _ID,
    "file_name": (_is_text, "text"),
    "name": (_is_text, "text"),
    "bbox": (_is_box, "x, y, width, height in pixels"),
    "iscrowd": (_is_flag, "0 or 1"),
    "area": (_is_number_or_none, "a number"),
    "width": (_is_number_or_none, "a number"),
    "height": (_is_number_or_none, "a number"),
}


def _key(identity: float | str) -> str:
    return identity.strip() if isinstance(identity, str) else str(int(identity))


def _order(identity: float | str) -> tuple[bool, int, str]:
    """Numbers by their value, then texts."""
    key = _key(identity)
    return (False, len(key), key) if key.isdecimal() else (True, 0, key)


def _area(annotation: Mapping[str, Any]) -> float:
    """The outline's area where it is given and can be one, else the box's."""
    area, box_area = annotation.get("area"), float(annotation["bbox"][2] * annotation["bbox"][3])
    return float(area) if _is_number(area) and 0 < area <= box_area else box_area


def _said_wh(image: Mapping[str, Any]) -> tuple[int, int] | None:
    width, height = image.get("width"), image.get("height")
    if not (_is_side(width) and _is_side(height)):
        return None
    return int(width), int(height)


def _is_side(value: object) -> TypeGuard[float]:
    return _is_number(value) and 0 < value <= MAX_SIDE_PX


def _positions(
    annotations: list[Mapping[str, Any]], field: str, entries: list[Mapping[str, Any]], key: str, path: Path
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Where in ``entries`` each annotation's ``field`` is found; int64 ``(n,)``."""
    by_id: dict[str, int] = {}
    for position, entry in enumerate(entries):
        if by_id.setdefault(_key(entry["id"]), position) != position:
            raise DatasetError(
                f"{path}: two entries of {key!r} have the same id {shown(entry['id'])}; expected one of each"
            )
    for position, annotation in enumerate(annotations):
        if _key(annotation[field]) not in by_id:
            raise DatasetError(
                f"{path}: annotations[{position}] has the {field} {shown(annotation[field])}, "
                f"which is the id of none of {key!r}; add the entry or remove the annotation"
            )
    return np.array([by_id[_key(annotation[field])] for annotation in annotations], np.int64)
