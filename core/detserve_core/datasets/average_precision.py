"""COCO's average precision: boxes are taken picture by picture, and pycocotools scores class by class."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detserve_core.datasets.dataset import AnnotatedPicture
from detserve_core.datasets.errors import DatasetError
from detserve_core.detections import Detections
from detserve_core.errors import MissingExtra
from detserve_core.text import name_key

MAX_DETECTIONS = 100  # what COCO's AP looks at
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
SIZES = ("small", "medium", "large")
_IOU50, _IOU75 = 0, 5
_ALL_SIZES = 0
_AREAS = 1 + len(SIZES)
_NOT_SCORED = -1
_CLASS = 0  # pycocotools gets one class at a time


@dataclass(frozen=True)
class GroupAccuracy:
    """The figures of one class or size, 0..1; None where nothing of it is annotated."""

    name: str
    boxes: int
    ap: float | None
    ap50: float | None
    ap75: float | None


@dataclass(frozen=True)
class AccuracyTable:
    """COCO's figures, 0..1; None where nothing is annotated.

    Small boxes are up to 32² px², large ones from 96² px².
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    pictures: int
    boxes: int
    detections: int
    sizes: tuple[GroupAccuracy, ...]
    classes: tuple[GroupAccuracy, ...]


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision of each scored class at :data:`RECALLS`.

    ``precision`` is float64 ``(10 IoU thresholds, 101 recalls, classes)``, -1 where a class has no box.
    """

    labels: tuple[str, ...]
    precision: NDArray[np.float64]


@dataclass(frozen=True)
class ClassMatches:
    """The detections of one class: ``scores`` float32 ``(n,)``, ``hit`` and ``ignored`` bool ``(10, n)``.

    The ten are the IoU thresholds; ``boxes`` is how many were to be found.
    """

    scores: NDArray[np.float32]
    hit: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    boxes: int


@dataclass(frozen=True)
class _ClassScores:
    """One class, for all sizes and each: ``boxes`` int64 ``(4,)``, ``precision`` float64 ``(10, 101, 4)``."""

    boxes: NDArray[np.int64]
    detections: int
    precision: NDArray[np.float64]


class AveragePrecision:
    """Takes one picture after the other, then gives the figures.

    What stays of a picture are its boxes: 24 bytes for each detection.

    Args:
        labels: the class names of the detector.
        dataset_labels: those of the dataset. Both are paired by name, and classes of one name are one; what
            has no partner is not scored.

    Raises:
        DatasetError: no name is in both.
    """

    def __init__(self, labels: Sequence[str], dataset_labels: Sequence[str]) -> None:
        self.labels, self.dataset_labels = tuple(labels), tuple(dataset_labels)
        self.class_of = classes_by_name(labels, dataset_labels)
        self._first = np.array(list(classes_by_name(dataset_labels, dataset_labels).values()), np.int64)
        self._scored = sorted(set(self.class_of.values()))
        self._truth: list[NDArray[np.float64]] = []
        self._found: list[NDArray[np.float32]] = []

    def update(self, truth: AnnotatedPicture, found: Detections) -> None:
        """Take one picture's annotated boxes and detections."""
        boxes = (truth.boxes_xywh, truth.areas_px, truth.crowd, truth.difficult)
        self._truth.append(np.column_stack([self._first[truth.classes], *boxes]).astype(np.float64))
        classes = [self.class_of.get(index, _NOT_SCORED) for index in found.classes.tolist()]
        self._found.append(np.column_stack([classes, found.boxes, found.scores]).astype(np.float32))

    def matches(self) -> list[ClassMatches]:
        """What was matched so far at every size together, class by class of those that are scored."""
        return [_class_matches(*self._boxes_of(index)) for index in self._scored]

    def result(self) -> tuple[AccuracyTable, PrecisionRecall]:
        """The figures of all pictures so far, and the curves behind them."""
        scores = [_class_scores(*self._boxes_of(index)) for index in self._scored]
        precision = np.stack([one.precision for one in scores], axis=2)
        boxes = np.stack([one.boxes for one in scores])
        labels = tuple(self.dataset_labels[index] for index in self._scored)
        total = _group("", boxes[:, _ALL_SIZES], precision[..., _ALL_SIZES])
        table = AccuracyTable(
            ap=total.ap,
            ap50=total.ap50,
            ap75=total.ap75,
            pictures=len(self._truth),
            boxes=total.boxes,
            detections=sum(one.detections for one in scores),
            sizes=tuple(
                _group(size, boxes[:, area], precision[..., area]) for area, size in enumerate(SIZES, 1)
            ),
            classes=tuple(
                _group(label, boxes[k, _ALL_SIZES], precision[:, :, k, _ALL_SIZES])
                for k, label in enumerate(labels)
            ),
        )
        return table, PrecisionRecall(labels, precision[..., _ALL_SIZES])

    def _boxes_of(self, index: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The annotated boxes and the detections of one class as pycocotools takes them."""
        boxes = [
            {
                "image_id": image_id,
                "bbox": bbox,
                "area": area,
                "iscrowd": int(crowd),
                "difficult": bool(difficult),
            }
            for image_id, rows in enumerate(self._truth)
            for _, *bbox, area, crowd, difficult in rows[rows[:, 0] == index].tolist()
        ]
        detections = [
            {
                "image_id": image_id,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "score": score,
            }
            for image_id, rows in enumerate(self._found)
            for _, x1, y1, x2, y2, score in rows[rows[:, 0] == index].tolist()
        ]
        return boxes, detections


def classes_by_name(labels: Sequence[str], dataset_labels: Sequence[str]) -> dict[int, int]:
    """Class index of the card -> index of the dataset's label of that name; labels without one are left out.

    Of several of one name it is the first. Raises :class:`DatasetError` when no name is in both.
    """
    indices: dict[str, int] = {}
    for index, label in enumerate(dataset_labels):
        indices.setdefault(name_key(label), index)
    found = {n: indices[name_key(label)] for n, label in enumerate(labels) if name_key(label) in indices}
    if not found:
        raise DatasetError(
            f"none of the card's labels ({', '.join(labels[:3])}, ...) is a class of the "
            f"dataset ({', '.join(dataset_labels[:3])}, ...); both must use the same names"
        )
    return found


def _class_matches(boxes: list[dict[str, Any]], detections: list[dict[str, Any]]) -> ClassMatches:
    every = (len(IOU_THRESHOLDS), 0)
    scores, hits, ignored = [np.zeros(0)], [np.zeros(every, np.bool_)], [np.zeros(every, np.bool_)]
    to_find = 0
    for one in _by_size(_evaluated(boxes, detections))[_ALL_SIZES]:
        scores.append(one["dtScores"])
        hits.append(one["dtMatches"] > 0)
        ignored.append(one["dtIgnore"].astype(np.bool_))
        to_find += np.count_nonzero(one["gtIgnore"] == 0)
    return ClassMatches(
        np.concatenate(scores).astype(np.float32),
        np.concatenate(hits, axis=1),
        np.concatenate(ignored, axis=1),
        to_find,
    )


def _class_scores(boxes: list[dict[str, Any]], detections: list[dict[str, Any]]) -> _ClassScores:
    evaluation = _evaluated(boxes, detections)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    sizes = _by_size(evaluation)
    return _ClassScores(
        np.array([sum(np.count_nonzero(one["gtIgnore"] == 0) for one in size) for size in sizes]),
        sum(len(one["dtScores"]) for one in sizes[_ALL_SIZES]),
        evaluation.eval["precision"][:, :, 0, :, 0],
    )


def _evaluated(boxes: list[dict[str, Any]], detections: list[dict[str, Any]]) -> Any:
    """pycocotools' evaluation of one class, matched and not yet accumulated."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = _evaluation_type()(_indexed(boxes), _indexed(detections), "bbox")
        evaluation.params.imgIds = sorted({one["image_id"] for one in (*boxes, *detections)})
        evaluation.params.catIds = [_CLASS]
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.evaluate()
    return evaluation


def _by_size(evaluation: Any) -> list[list[dict[str, Any]]]:
    """The matches in every picture, for all sizes together and for each."""
    pictures = len(evaluation.params.imgIds)
    return [evaluation.evalImgs[area * pictures : (area + 1) * pictures] for area in range(_AREAS)]


def _indexed(boxes: list[dict[str, Any]]) -> Any:
    from pycocotools.coco import COCO

    coco = COCO()
    for number, box in enumerate(boxes, 1):  # id 0 is "no match"
        box |= {"category_id": _CLASS, "id": number}
    coco.dataset = {"images": [], "categories": [], "annotations": boxes}
    coco.createIndex()
    return coco


@cache
def _evaluation_type() -> Any:
    try:
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise MissingExtra("pycocotools", "perf") from None

    class Evaluation(COCOeval):  # type: ignore[misc]
        """A difficult object is ignored as a crowd is, and overlaps as any other object does."""

        def computeIoU(self, image_id: int, category_id: int) -> Any:
            ious = super().computeIoU(image_id, category_id)
            for box in self.cocoGt.loadAnns(self.cocoGt.getAnnIds(imgIds=[image_id])):
                if box["difficult"]:
                    box["iscrowd"] = box["ignore"] = 1
            return ious

    return Evaluation


def _group(name: str, boxes: NDArray[np.int64], precision: NDArray[np.float64]) -> GroupAccuracy:
    """Means over a ``precision`` whose first axis is IoU, without the classes that have no box."""
    return GroupAccuracy(
        name=name,
        boxes=int(np.sum(boxes)),
        ap=_mean(precision),
        ap50=_mean(precision[_IOU50]),
        ap75=_mean(precision[_IOU75]),
    )


def _mean(precision: NDArray[np.float64]) -> float | None:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else None
