"""COCO's average precision, picture by picture: pycocotools scores, and only the outcome stays."""

from __future__ import annotations

import contextlib
import io
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detserve_core.datasets.base import AnnotatedPicture
from detserve_core.datasets.errors import DatasetError
from detserve_core.detections import Detections
from detserve_core.errors import MissingExtra

MAX_DETECTIONS = 100  # what COCO's AP looks at
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
SIZES = ("small", "medium", "large")
_IOU50, _IOU75 = 0, 5
_ALL_SIZES = 0
_AREAS = 1 + len(SIZES)
_FLAGS = (_AREAS, 2, len(IOU_THRESHOLDS))  # of each detection: matched and ignored, at every size and IoU
_BITS = _AREAS * 2 * len(IOU_THRESHOLDS)


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


@dataclass
class _ClassTally:
    """All detections of one class: 14 bytes each. ``boxes`` counts what may be found, at every size."""

    scores: array[float] = field(default_factory=lambda: array("f"))
    flags: bytearray = field(default_factory=bytearray)
    boxes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_AREAS, np.int64))


class AveragePrecision:
    """Takes one picture after the other, then gives the figures.

    What stays of a picture are 14 bytes for each of its detections, :data:`MAX_DETECTIONS` a class at most.

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
        self._first = tuple(classes_by_name(dataset_labels, dataset_labels).values())
        self._tallies = {index: _ClassTally() for index in sorted(set(self.class_of.values()))}
        self._pictures = 0

    def update(self, truth: AnnotatedPicture, found: Detections) -> None:
        """Match one picture's detections with its annotated boxes."""
        self._pictures += 1
        boxes = [box for box in _truth_boxes(truth, self._first) if box["category_id"] in self._tallies]
        detections = _detection_boxes(found, self.class_of)
        present = sorted({box["category_id"] for box in (*boxes, *detections)})
        if not present:
            return
        matches = _matches(boxes, detections, present)
        for position, index in enumerate(present):
            tally, areas = self._tallies[index], matches[position * _AREAS : (position + 1) * _AREAS]
            tally.boxes += [np.count_nonzero(area["gtIgnore"] == 0) for area in areas]
            tally.scores.extend(areas[_ALL_SIZES]["dtScores"])
            bits = np.array([[area["dtMatches"] > 0, area["dtIgnore"]] for area in areas], np.bool_)
            tally.flags += np.packbits(bits.reshape(_BITS, bits.shape[-1]), axis=0).T.tobytes()

    def matches(self) -> list[ClassMatches]:
        """What was matched so far at every size together, class by class of those that are scored."""
        found = []
        for tally in self._tallies.values():
            hit, ignored = _flags(tally)[_ALL_SIZES]
            scores = np.array(tally.scores, np.float32)
            found.append(ClassMatches(scores, hit, ignored, int(tally.boxes[_ALL_SIZES])))
        return found

    def result(self) -> tuple[AccuracyTable, PrecisionRecall]:
        """The figures of all pictures so far, and the curves behind them."""
        precision = np.stack([_precision(tally) for tally in self._tallies.values()], axis=2)
        boxes = np.stack([tally.boxes for tally in self._tallies.values()])
        labels = tuple(self.dataset_labels[index] for index in self._tallies)
        total = _group("", boxes[:, _ALL_SIZES], precision[..., _ALL_SIZES])
        table = AccuracyTable(
            ap=total.ap,
            ap50=total.ap50,
            ap75=total.ap75,
            pictures=self._pictures,
            boxes=total.boxes,
            detections=sum(len(tally.scores) for tally in self._tallies.values()),
            sizes=tuple(
                _group(size, boxes[:, area], precision[..., area]) for area, size in enumerate(SIZES, 1)
            ),
            classes=tuple(
                _group(label, boxes[k, _ALL_SIZES], precision[:, :, k, _ALL_SIZES])
                for k, label in enumerate(labels)
            ),
        )
        return table, PrecisionRecall(labels, precision[..., _ALL_SIZES])


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


def name_key(name: str) -> str:
    """What makes two class names the same: case and outer blanks do not count."""
    return name.strip().casefold()


def _truth_boxes(truth: AnnotatedPicture, class_of: Sequence[int]) -> list[dict[str, Any]]:
    rows = zip(
        truth.boxes_xywh.tolist(),
        truth.classes.tolist(),
        truth.areas_px.tolist(),
        truth.crowd.tolist(),
        truth.difficult.tolist(),
        strict=True,
    )
    return [
        {
            "bbox": box,
            "category_id": class_of[index],
            "area": area,
            "iscrowd": int(crowd),
            "difficult": difficult,
        }
        for box, index, area, crowd, difficult in rows
    ]


def _detection_boxes(found: Detections, class_of: Mapping[int, int]) -> list[dict[str, Any]]:
    corners = found.boxes.astype(np.float64)
    sizes = corners[:, 2:] - corners[:, :2]
    xywh, areas = np.concatenate([corners[:, :2], sizes], axis=1).tolist(), sizes.prod(axis=1).tolist()
    rows = zip(found.classes.tolist(), xywh, areas, found.scores.tolist(), strict=True)
    return [
        {"category_id": class_of[index], "bbox": box, "area": area, "score": confidence}
        for index, box, area, confidence in rows
        if index in class_of
    ]


def _matches(
    boxes: list[dict[str, Any]], detections: list[dict[str, Any]], classes: list[int]
) -> list[dict[str, Any]]:
    """pycocotools' matching in one picture: a dictionary for each class and, within it, size."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = _evaluation_type()(_indexed(boxes), _indexed(detections), "bbox")
        evaluation.params.imgIds = [0]
        evaluation.params.catIds = classes
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.evaluate()
    return list(evaluation.evalImgs)


def _indexed(boxes: list[dict[str, Any]]) -> Any:
    from pycocotools.coco import COCO

    coco = COCO()
    numbered = [{**box, "image_id": 0, "id": n} for n, box in enumerate(boxes, 1)]  # id 0 is "no match"
    coco.dataset = {"images": [{"id": 0}], "categories": [], "annotations": numbered}
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
            for box in self.cocoGt.loadAnns(self.cocoGt.getAnnIds(catIds=[category_id])):
                if box["difficult"]:
                    box["iscrowd"] = box["ignore"] = 1
            return ious

    return Evaluation


def _flags(tally: _ClassTally) -> NDArray[np.bool_]:
    """Matched and ignored, bool ``(sizes, 2, 10 IoU thresholds, n)``."""
    rows = len(tally.scores)
    packed = np.frombuffer(tally.flags, np.uint8).reshape(rows, _BITS // 8)
    return np.unpackbits(packed, axis=1).T.reshape(*_FLAGS, rows).astype(np.bool_)


def _precision(tally: _ClassTally) -> NDArray[np.float64]:
    """pycocotools' precision of one class, float64 ``(10 IoU thresholds, 101 recalls, 4 sizes)``."""
    rows = len(tally.scores)
    flags = _flags(tally)
    evaluation = _evaluation_type()(iouType="bbox")
    evaluation.params.imgIds = evaluation.params.catIds = [0]
    evaluation.params.maxDets = [rows]  # each picture was cut to COCO's limit as it came
    evaluation.evalImgs = [
        {
            "dtScores": np.frombuffer(tally.scores, np.float32),
            "dtMatches": matched,
            "dtIgnore": ignored,
            "gtIgnore": np.zeros(boxes),
        }
        for (matched, ignored), boxes in zip(flags, tally.boxes, strict=True)
    ]
    evaluation._paramsEval = evaluation.params
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    precision: NDArray[np.float64] = evaluation.eval["precision"][:, :, 0, :, 0]
    return precision


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
