"""Class-wise NMS of the references."""

from __future__ import annotations

import numpy as np


def class_wise_nms(
    boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, iou_threshold: float
) -> np.ndarray:
    """Greedy NMS on each class, vectorised over the rest (YOLOX's multiclass_nms)."""
    kept: list[int] = []
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for label in np.unique(classes):
        order = np.flatnonzero(classes == label)
        order = order[np.argsort(-scores[order], kind="stable")]
        while order.size:
            best, rest = order[0], order[1:]
            kept.append(int(best))
            low = np.maximum(boxes[best, :2], boxes[rest, :2])
            high = np.minimum(boxes[best, 2:], boxes[rest, 2:])
            overlap = np.prod(np.clip(high - low, 0, None), axis=1)
            order = rest[overlap / (areas[best] + areas[rest] - overlap) <= iou_threshold]
    result = np.array(kept, int)
    return result[np.argsort(-scores[result], kind="stable")]
