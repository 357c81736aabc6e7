"""Candidates in network pixels -> detections in pixels of the picture, padded to a fixed number of rows."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

#: The gateway's word, headers that Triton is told to hand on, and what Triton keeps for itself.
_NOT_OURS = ("detserve-", "triton_")

Detections = tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]


def request_thresholds(card: dict[str, Any], parameters: dict[str, Any]) -> dict[str, Any]:
    """Arguments of :func:`postprocess`: the card's ``thresholds``, overridden by what one request says.

    Raises ValueError, one sentence for the caller, for a value out of range.
    """
    rows = card["max_detections"]
    highest = {"score_threshold": 1.0, "iou_threshold": 1.0, "max_detections": rows}
    chosen = {"score_threshold": card["score"], "iou_threshold": card["iou"], "max_detections": rows}
    for name, value in parameters.items():
        if name in highest:
            chosen[name] = _number(name, value, highest[name])
        elif not name.startswith(_NOT_OURS):
            raise ValueError(f"there is no parameter {name}, expected one of {', '.join(highest)}")
    return {**chosen, "rows": rows}


def _number(name: str, value: Any, highest: float) -> float:
    """A parameter's value, 0 to ``highest``, whole where that is; as text too, for gRPC without fractions."""
    try:
        number = -1.0 if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = -1.0
    whole = isinstance(highest, int)
    if not 0 <= number <= highest or (whole and number != int(number)):
        kind = "a whole number from 0" if whole else "a number from 0"
        raise ValueError(f"parameter {name} is {value!r}, expected {kind} to {highest:g}")
    return int(number) if whole else number


def postprocess(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    classes: NDArray[np.int32],
    geometry: NDArray[np.float32],
    *,
    score_threshold: float,
    iou_threshold: float,
    max_detections: int,
    rows: int,
) -> Detections:
    """Class-wise NMS, back to the picture, clip, pad.

    Takes boxes [K,4] in network pixels, scores [K] descending, classes [K] (negative: padding) and the
    geometry of the preprocess step. Returns num_detections int32 [1], boxes float32 [rows,4], scores
    float32 [rows] and classes int32 [rows].

    Rows that are no box are dropped first: those with a number that is not finite, and those whose right or
    lower edge does not lie beyond the other. Heads without distributions give such.

    Raises FloatingPointError where no row at all is finite: a network that overflows sees nothing anywhere.
    """
    finite = np.isfinite(boxes).all(1)
    if len(boxes) and not (finite & np.isfinite(scores)).any():
        raise FloatingPointError("not one box of the network has a finite place and score")
    is_box = finite & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    candidates = np.flatnonzero((scores >= score_threshold) & (scores < np.inf) & (classes >= 0) & is_box)
    kept = candidates[nms(boxes[candidates], scores[candidates], classes[candidates], iou_threshold)]
    kept = kept[: min(max_detections, rows)]
    num = len(kept)
    out_boxes = np.zeros((rows, 4), np.float32)
    out_scores = np.zeros(rows, np.float32)
    out_classes = np.full(rows, -1, np.int32)
    out_boxes[:num] = to_picture(boxes[kept], geometry)
    out_scores[:num] = scores[kept]
    out_classes[:num] = classes[kept]
    return np.array([num], np.int32), out_boxes, out_scores, out_classes


def nms(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    classes: NDArray[np.int32],
    iou_threshold: float,
) -> NDArray[np.intp]:
    """Greedy class-wise non-maximum suppression; indices of the kept boxes, best first."""
    if len(boxes) < 2:
        return np.arange(len(boxes))
    # OpenCV tells classes apart by shifting them, which takes corners of 0 and more.
    xywh = np.concatenate([boxes[:, :2] - boxes[:, :2].min(), boxes[:, 2:] - boxes[:, :2]], axis=1)
    kept = np.asarray(
        cv2.dnn.NMSBoxesBatched(xywh, scores, classes, -1.0, iou_threshold),  # type: ignore[arg-type]
        np.intp,
    )
    return np.asarray(kept[np.argsort(-scores[kept], kind="stable")], np.intp)


def to_picture(boxes: NDArray[np.float32], geometry: NDArray[np.float32]) -> NDArray[np.float32]:
    """Boxes [n,4] in network pixels -> pixels of the picture, clipped to it."""
    scale, offset, size = geometry[0:2], geometry[2:4], geometry[4:6]
    corners = (boxes.reshape(-1, 2, 2) - offset) / scale
    return np.asarray(np.clip(corners, 0, size), np.float32).reshape(-1, 4)
