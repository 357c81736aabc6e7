"""A plain detector from an ONNX file and its card, for scoring in this folder only.

The product has its own, faster way; this one is kept short enough to be believed at a glance.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from zoo.letterbox import letterbox

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Detections:
    """`boxes_px`: float32 [n, 4] corners in the picture; `scores`: float32 [n]; `classes`: int64 [n]."""

    boxes_px: Floats
    scores: Floats
    classes: NDArray[np.int64]


def sigmoid(x: Floats) -> Floats:
    """Logistic function."""
    return 1 / (1 + np.exp(-x))


def decode_head(head: Floats, anchors_px: Floats, stride: int, scale_xy: float) -> tuple[Floats, Floats]:
    """One raw head [a * (5 + c), g, g] to boxes [a * g * g, 4] (corners, input pixels) and scores [.., c]."""
    grid = head.shape[-1]
    maps = head.reshape(len(anchors_px), -1, grid, grid).transpose(0, 2, 3, 1)
    rows, columns = np.mgrid[0:grid, 0:grid]
    cell = np.stack([columns, rows], -1)
    centre = (sigmoid(maps[..., :2]) * scale_xy - (scale_xy - 1) / 2 + cell) * stride
    half = np.exp(np.minimum(maps[..., 2:4], 8)) * anchors_px[:, None, None] / 2
    scores = sigmoid(maps[..., 4:5]) * sigmoid(maps[..., 5:])
    boxes = np.concatenate([centre - half, centre + half], -1).reshape(-1, 4)
    return boxes.astype(np.float32), scores.reshape(len(boxes), -1).astype(np.float32)


def overlaps(box: Floats, boxes: Floats) -> Floats:
    """IoU of one box [4] with many [n, 4]."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = np.clip(sides, 0, None).prod(1)
    together = (box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1) - shared
    return np.asarray(shared / (together + 1e-9), np.float32)


def suppress(boxes: Floats, scores: Floats, classes: NDArray[np.int64], most_overlap: float) -> list[int]:
    """Class-aware greedy suppression: the indices kept, best first."""
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(int(best))
        same = classes[order] == classes[best]
        order = order[~(same & (overlaps(boxes[best], boxes[order]) > most_overlap))]
    return kept


class ReferenceDetector:
    """Pictures in, detections out, by onnxruntime on the CPU."""

    def __init__(self, onnx_path: Path, card: dict[str, Any]) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = (
            1  # scoring often runs beside training: waiting threads would slow both
        )
        self._session = ort.InferenceSession(str(onnx_path), options, providers=["CPUExecutionProvider"])
        self.card = card

    @classmethod
    def from_folder(cls, folder: Path) -> ReferenceDetector:
        """Open `checkpoint.onnx` and `card.json` of a folder."""
        return cls(folder / "checkpoint.onnx", json.loads((folder / "card.json").read_text()))

    def __call__(self, picture: NDArray[np.uint8], least_score: float | None = None) -> Detections:
        """Detect in one RGB picture uint8 [h, w, 3]."""
        square, factor, padding = letterbox(picture, self.card["input_wh"][0])
        pixels = square.astype(np.float32).transpose(2, 0, 1)[None] * np.float32(
            self.card["preprocess"]["scale"]
        )
        heads = self._session.run(None, {"images": pixels})
        return self._finish([head[0] for head in heads], picture, factor, padding, least_score)

    def _finish(
        self,
        heads: list[Floats],
        picture: NDArray[np.uint8],
        factor: float,
        padding: tuple[int, int],
        least_score: float | None,
    ) -> Detections:
        head_card, thresholds = self.card["head"], self.card["thresholds"]
        described = zip(heads, head_card["anchors_wh_px"], head_card["strides"], strict=True)
        parts = [decode_head(h, np.array(a, np.float32), s, head_card["scale_xy"]) for h, a, s in described]
        boxes = np.concatenate([part[0] for part in parts])
        all_scores = np.concatenate([part[1] for part in parts])
        classes, scores = all_scores.argmax(1), all_scores.max(1)
        strong = np.nonzero(scores >= (thresholds["score"] if least_score is None else least_score))[0]
        strong = strong[np.argsort(-scores[strong], kind="stable")[: self.card["candidates"]]]
        boxes, scores, classes = boxes[strong], scores[strong], classes[strong]
        kept = suppress(boxes, scores, classes, thresholds["iou"])[: thresholds["max_detections"]]
        height, width = picture.shape[:2]
        boxes = (boxes[kept] - np.array(padding * 2, np.float32)) / factor
        boxes = np.clip(boxes, 0, np.array([width, height] * 2, np.float32))
        return Detections(boxes.astype(np.float32), scores[kept], classes[kept])
