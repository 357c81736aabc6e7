"""COCO annotations and their average precision, silent and without a server."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detserve_client.errors import MissingExtra
from detserve_perf.errors import MeasurementError

Annotations = Mapping[str, Any]
Result = Mapping[str, Any]
MAX_DETECTIONS = 100  # what COCO's AP looks at


@dataclass(frozen=True)
class ClassAccuracy:
    """AP of one class; None where the annotations hold no box of it."""

    name: str
    boxes: int
    ap: float | None
    ap50: float | None


@dataclass(frozen=True)
class AccuracyTable:
    """COCO's figures in 0..1; a size without annotated boxes is None.

    Small boxes are below 32² px², large ones above 96² px².
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    pictures: int
    boxes: int
    detections: int
    classes: tuple[ClassAccuracy, ...]


def load_annotations(path: Path) -> Annotations:
    """Read a COCO ``instances.json``; raises :class:`MeasurementError` when it is none."""
    try:
        annotations = json.loads(path.read_bytes())
    except OSError as error:
        raise MeasurementError(
            f"{path} cannot be read ({error.strerror}); expected a COCO instances.json"
        ) from None
    except ValueError as error:
        raise MeasurementError(f"{path} is no JSON ({error}); expected a COCO instances.json") from None
    for key, fields in _EXPECTED.items():
        entries = annotations.get(key) if isinstance(annotations, dict) else None
        if not isinstance(entries, list) or not entries:
            raise MeasurementError(f"{path} has no list {key!r}; expected a COCO instances.json")
        for position, entry in enumerate(entries):
            missing = [f for f in fields if not isinstance(entry, dict) or f not in entry]
            if missing:
                raise MeasurementError(
                    f"{path}: {key}[{position}] has no {missing[0]!r}; expected COCO's format"
                )
    for position, entry in enumerate(annotations["annotations"]):
        if not _is_box(entry["bbox"]):
            raise MeasurementError(
                f"{path}: annotations[{position}] has the bbox {entry['bbox']!r}; "
                "expected x, y, width, height"
            )
    return dict(annotations)


def _is_box(bbox: object) -> bool:
    return isinstance(bbox, list) and len(bbox) == 4 and all(isinstance(n, (int, float)) for n in bbox)


_EXPECTED = {
    "images": ("id", "file_name"),
    "annotations": ("image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}


def categories_by_class(labels: Sequence[str], annotations: Annotations) -> dict[int, int]:
    """Class index of the card -> category id of the annotations, by name.

    A label without a category is left out.

    Raises :class:`MeasurementError` when no label is a category.
    """
    ids = {_key(category["name"]): category["id"] for category in annotations["categories"]}
    found = {index: ids[_key(label)] for index, label in enumerate(labels) if _key(label) in ids}
    if not found:
        names = ", ".join(str(category["name"]) for category in annotations["categories"][:3])
        raise MeasurementError(
            f"none of the card's labels ({', '.join(labels[:3])}, ...) is a category of the "
            f"annotations ({names}, ...); both must use the same names"
        )
    return found


def _key(name: str) -> str:
    return name.strip().casefold()


def score(annotations: Annotations, results: Iterable[Result], category_ids: Iterable[int]) -> AccuracyTable:
    """Score detections with pycocotools over the categories of ``category_ids`` and every annotated picture.

    Each result has ``image_id``, ``category_id``, ``bbox`` (x, y, width, height in pixels) and ``score``, as
    in COCO's results format. Neither argument is changed. Raises :class:`MeasurementError` for a result of a
    picture that is not annotated.
    """
    try:
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise MissingExtra("pycocotools", "perf") from None

    wanted = sorted(set(category_ids))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = _indexed(annotations, [_box(a, n) for n, a in enumerate(annotations["annotations"], 1)])
        found = _indexed(annotations, [_box(r, n) for n, r in enumerate(results, 1)])
        strangers = {entry["image_id"] for entry in found.anns.values()} - set(truth.imgs)
        if strangers:
            raise MeasurementError(f"a detection belongs to picture {min(strangers)}, which is not annotated")
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.params.catIds = wanted
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    ap, ap50, ap75, small, medium, large = (_none_where_empty(value) for value in evaluation.stats[:6])
    return AccuracyTable(
        ap=ap,
        ap50=ap50,
        ap75=ap75,
        ap_small=small,
        ap_medium=medium,
        ap_large=large,
        pictures=len(truth.imgs),
        boxes=sum(1 for a in truth.anns.values() if a["category_id"] in wanted and not a["iscrowd"]),
        detections=len(found.anns),
        classes=tuple(_by_class(evaluation, truth)),
    )


def _box(entry: Mapping[str, Any], number: int) -> dict[str, Any]:
    width, height = entry["bbox"][2:4]
    return {
        "area": width * height,
        "iscrowd": 0,
        **{key: value for key, value in entry.items() if key != "segmentation"},
        "id": number,  # COCOeval takes id 0 for "no match"
    }


def _indexed(annotations: Annotations, boxes: list[dict[str, Any]]) -> Any:
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = {
        "images": annotations["images"],
        "categories": annotations["categories"],
        "annotations": boxes,
    }
    coco.createIndex()
    return coco


def _by_class(evaluation: Any, truth: Any) -> Iterable[ClassAccuracy]:
    # precision [10 IoUs, 101 recalls, classes, 4 areas, 3 detection limits]; -1 where a class has no box
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    for position, category_id in enumerate(evaluation.params.catIds):
        own = precision[:, :, position]
        boxes = [a for a in truth.anns.values() if a["category_id"] == category_id and not a["iscrowd"]]
        yield ClassAccuracy(
            name=str(truth.cats[category_id]["name"]),
            boxes=len(boxes),
            ap=_none_where_empty(own.mean()),
            ap50=_none_where_empty(own[0].mean()),
        )


def _none_where_empty(value: float) -> float | None:
    return None if value < 0 else float(value)
