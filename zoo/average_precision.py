"""Average precision as COCO defines it (101 recall points), for scenes whose boxes are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zoo.reference_detector import Detections, overlaps
from zoo.scenes.scene import Scene

OVERLAPS = tuple(float(v) for v in np.arange(0.5, 0.96, 0.05).round(2))


def _judge(found: Detections, truth: Scene, label: int, least_overlap: float) -> list[tuple[float, bool]]:
    """Score and verdict of each detection of one class in one picture."""
    boxes = truth.boxes_px[truth.classes == label]
    free = np.ones(len(boxes), bool)
    verdicts = []
    for index in np.nonzero(found.classes == label)[0]:
        shares = overlaps(found.boxes_px[index], boxes) * free if len(boxes) else np.zeros(0)
        best = int(shares.argmax()) if len(shares) else -1
        hit = best >= 0 and bool(shares[best] >= least_overlap)
        if hit:
            free[best] = False
        verdicts.append((float(found.scores[index]), hit))
    return verdicts


def _area(verdicts: list[tuple[float, bool]], positives: int) -> float:
    if not verdicts:
        return 0.0
    hits = np.array([hit for _, hit in sorted(verdicts, key=lambda v: -v[0])], float)
    recall = hits.cumsum() / positives
    precision = hits.cumsum() / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, np.linspace(0, 1, 101))
    return float(np.append(envelope, 0.0)[places].mean())


def average_precision(
    found: Sequence[Detections], truths: Sequence[Scene], class_count: int
) -> NDArray[np.float64]:
    """AP per class and overlap: float64 [classes, overlaps]; NaN for classes that do not occur."""
    result = np.full((class_count, len(OVERLAPS)), np.nan)
    for label in range(class_count):
        positives = sum(int((truth.classes == label).sum()) for truth in truths)
        for column, least_overlap in enumerate(OVERLAPS):
            pairs = zip(found, truths, strict=True)
            verdicts = [v for f, t in pairs for v in _judge(f, t, label, least_overlap)]
            if positives:
                result[label, column] = _area(verdicts, positives)
    return result
