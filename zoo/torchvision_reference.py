"""Plain SSD and Faster R-CNN detectors from an ONNX file and its card, for scoring in this folder only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from zoo.letterbox import letterbox
from zoo.reference_detector import Detections, Floats, suppress

Found = tuple[Floats, Floats, NDArray[np.int64]]
"""Boxes [n, 4] in network pixels, scores [n] descending, classes [n]."""


def default_boxes(card: dict[str, Any]) -> Floats:
    """Every default box, float32 [a, 4]: centre and size in network pixels."""
    rows = []
    for grid in card["head"]["prior_grid"]["maps"]:
        columns, lines = grid["cells_wh"]
        for y in range(lines):
            for x in range(columns):
                centre = (x + 0.5) * grid["step_px"], (y + 0.5) * grid["step_px"]
                rows += [(*centre, *size) for size in grid["sizes_wh_px"]]
    return np.array(rows, np.float32)


class TorchvisionReference:
    """Pictures in, detections out, by onnxruntime on the CPU."""

    def __init__(self, folder: Path) -> None:
        self.card = json.loads((folder / "card.json").read_text())
        self._session = ort.InferenceSession(
            str(folder / "checkpoint.onnx"), providers=["CPUExecutionProvider"]
        )
        self._boxes = default_boxes(self.card) if self.card["family"] == "ssd" else None

    def __call__(self, picture: NDArray[np.uint8], least_score: float | None = None) -> Detections:
        """Detect in one RGB picture uint8 [h, w, 3]."""
        square, factor, padding = letterbox(picture, self.card["input_wh"][0])
        pixels = square.astype(np.float32).transpose(2, 0, 1) * np.float32(self.card["preprocess"]["scale"])
        threshold = self.card["thresholds"]["score"] if least_score is None else least_score
        if self._boxes is None:
            boxes, scores, classes = self._rcnn(pixels)
        else:
            boxes, scores, classes = self._ssd(pixels, self._boxes, threshold)
        kept = (scores >= threshold).nonzero()[0][: self.card["thresholds"]["max_detections"]]
        height, width = picture.shape[:2]
        boxes = (boxes[kept] - np.array(padding * 2, np.float32)) / factor
        boxes = np.clip(boxes, 0, np.array([width, height] * 2, np.float32))
        return Detections(boxes.astype(np.float32), scores[kept], classes[kept])

    def _rcnn(self, pixels: Floats) -> Found:
        boxes, labels, scores = self._session.run(["boxes", "labels", "scores"], {"image": pixels})
        return boxes, scores, labels - 1

    def _ssd(self, pixels: Floats, priors: Floats, threshold: float) -> Found:
        deltas, logits = (
            value[0] for value in self._session.run(["boxes", "logits"], {"images": pixels[None]})
        )
        powers = np.exp(logits - logits.max(1, keepdims=True))
        shares = (powers / powers.sum(1, keepdims=True))[:, 1:]  # column 0 is the background
        classes, scores = shares.argmax(1), shares.max(1)
        strong = np.argsort(-scores, kind="stable")[: self.card["candidates"]]
        strong = strong[scores[strong] >= threshold]
        deltas, priors = deltas[strong], priors[strong]
        centre = priors[:, :2] + deltas[:, :2] / 10 * priors[:, 2:]
        half = priors[:, 2:] * np.exp(deltas[:, 2:] / 5) / 2
        boxes = np.concatenate([centre - half, centre + half], 1)
        kept = suppress(boxes, scores[strong], classes[strong], self.card["thresholds"]["iou"])
        return boxes[kept], scores[strong][kept], classes[strong][kept]
