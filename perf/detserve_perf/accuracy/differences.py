"""Two detectors on the same pictures: what both find, what one of them misses, what moved."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detserve_core.detections import Detections
from detserve_core.text import name_key

MATCH_IOU = 0.5
MOVED_BELOW_IOU = 0.9
ALL_CLASSES = "all classes"


@dataclass(frozen=True)
class Pairing:
    """Which detections are the same object to both detectors.

    Attributes:
        rows: int64 ``(n, 2)``, a row of the model's detections and the row of the other's.
        ious: float64 ``(n,)``.
        missed: bool, the other's rows that the model has no partner for.
        extra: bool, the model's rows that the other has no partner for.
    """

    rows: NDArray[np.int64]
    ious: NDArray[np.float64]
    missed: NDArray[np.bool_]
    extra: NDArray[np.bool_]

    @property
    def moved(self) -> NDArray[np.bool_]:
        """Bool ``(n,)``: the pairs that overlap by less than :data:`MOVED_BELOW_IOU`."""
        return self.ious < MOVED_BELOW_IOU


@dataclass(frozen=True)
class Counts:
    """What became of the boxes of one class or one picture; ``moved`` ones are among the ``matched``.

    ``mean_score_change`` is the model's score less the other's; both means are over matched boxes.
    """

    name: str
    matched: int
    moved: int
    missed: int
    extra: int
    mean_iou: float | None
    mean_score_change: float | None

    @property
    def disagreement(self) -> float:
        """Boxes that only one detector has, and the share by which the others do not overlap."""
        return self.missed + self.extra + self.matched * (1 - (self.mean_iou or 0))


@dataclass(frozen=True)
class WorstCase:
    """A picture with what both detectors found in it; ``counts`` is named after the picture."""

    path: Path
    counts: Counts
    found: Detections
    other: Detections


class Differences:
    """Takes both detectors' answers, picture by picture; keeps counts, and the ``worst`` answers."""

    def __init__(self, worst: int) -> None:
        self.pictures: list[Counts] = []
        self._by_class: dict[str, tuple[str, list[float]]] = {}
        self._kept = worst
        self._heap: list[tuple[float, int, WorstCase]] = []

    def update(self, path: Path, found: Detections, other: Detections) -> None:
        """Compare the model's ``found`` with what the ``other`` detector has."""
        pairing = pair(found, other)
        changes = _score_changes(pairing, found, other)
        counts = _counts(path.name, pairing, changes)
        self.pictures.append(counts)
        labels, other_labels = found.labels, other.labels
        for (row, _), iou, moved, change in zip(
            pairing.rows.tolist(), pairing.ious, pairing.moved, changes, strict=True
        ):
            self._add(labels[row], [1, moved, 0, 0, iou, change])
        for row in np.flatnonzero(pairing.missed):
            self._add(other_labels[row], [0, 0, 1, 0, 0, 0])
        for row in np.flatnonzero(pairing.extra):
            self._add(labels[row], [0, 0, 0, 1, 0, 0])
        if counts.disagreement > 0:
            case = WorstCase(path, counts, found, other)
            heapq.heappush(self._heap, (counts.disagreement, -len(self.pictures), case))
            if len(self._heap) > self._kept:
                heapq.heappop(self._heap)

    def by_class(self) -> list[Counts]:
        """All classes together, then each one that was detected."""
        classes = [entry for _, entry in sorted(self._by_class.items())]
        total = np.sum([[0.0] * 6, *(sums for _, sums in classes)], axis=0).tolist()
        return [_of_sums(ALL_CLASSES, total), *(_of_sums(label, sums) for label, sums in classes)]

    def worst(self) -> list[WorstCase]:
        """The pictures with the most disagreement, worst first; none where both agree fully."""
        return [case for _, _, case in sorted(self._heap, reverse=True, key=lambda entry: entry[:2])]

    def _add(self, label: str, amounts: Sequence[float]) -> None:
        _, sums = self._by_class.setdefault(name_key(label), (label, [0.0] * 6))
        for position, amount in enumerate(amounts):
            sums[position] += float(amount)


def pair(found: Detections, other: Detections) -> Pairing:
    """Pair boxes of the same class name, greatest overlap first, each at most once, at IoU 0.5 or more."""
    ious = _ious(found, other)
    rows = []
    order = np.argsort(-ious, axis=None, kind="stable")
    left, right = np.ones(len(found), np.bool_), np.ones(len(other), np.bool_)
    for a, b in np.column_stack(np.unravel_index(order, ious.shape)).tolist():
        if ious[a, b] < MATCH_IOU:
            break
        if left[a] and right[b]:
            rows.append((a, b))
            left[a] = right[b] = False
    pairs = np.array(rows, np.int64).reshape(-1, 2)
    return Pairing(pairs, ious[pairs[:, 0], pairs[:, 1]], missed=right, extra=left)


def _ious(found: Detections, other: Detections) -> NDArray[np.float64]:
    """Float64 ``(n, m)``; 0 where the classes differ."""
    from pycocotools import mask

    if not (len(found) and len(other)):
        return np.zeros((len(found), len(other)))
    overlaps: NDArray[np.float64] = mask.iou(_xywh(found), _xywh(other), [0] * len(other))
    same = _names(found)[:, None] == _names(other)
    return np.where(same, overlaps, 0.0)


def _xywh(detections: Detections) -> NDArray[np.float64]:
    corners = detections.boxes.astype(np.float64)
    return np.ascontiguousarray(np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1))


def _names(detections: Detections) -> NDArray[np.str_]:
    return np.array([name_key(label) for label in detections.labels])


def _score_changes(pairing: Pairing, found: Detections, other: Detections) -> NDArray[np.float64]:
    a, b = pairing.rows.T
    changes: NDArray[np.float64] = found.scores[a].astype(np.float64) - other.scores[b]
    return changes


def _counts(name: str, pairing: Pairing, changes: NDArray[np.float64]) -> Counts:
    sums = [
        len(pairing.rows),
        np.count_nonzero(pairing.moved),
        np.count_nonzero(pairing.missed),
        np.count_nonzero(pairing.extra),
        pairing.ious.sum(),
        changes.sum(),
    ]
    return _of_sums(name, sums)


def _of_sums(name: str, sums: Sequence[float]) -> Counts:
    matched, moved, missed, extra = map(int, sums[:4])
    iou, change = (float(value) / matched if matched else None for value in sums[4:])
    return Counts(name, matched, moved, missed, extra, iou, change)
