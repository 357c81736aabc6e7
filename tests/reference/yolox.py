"""YOLOX on one picture as its authors run it: a float pipeline that shares no line with the served one.

Source: YOLOX, yolox/data/data_augment.py (preproc) and yolox/utils/demo_utils.py (demo_postprocess). Best
class per anchor and class-wise NMS, as everywhere in detserve.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort

from tests.reference.nms import class_wise_nms

STRIDES = (8, 16, 32)


class YoloxReference:
    """The untouched checkpoint with its published pre- and postprocessing."""

    def __init__(self, onnx_path: Path) -> None:
        self.session = ort.InferenceSession(str(onnx_path), providers=["CPUExecutionProvider"])
        self.height, self.width = self.session.get_inputs()[0].shape[2:]

    def __call__(
        self, picture_path: Path, *, score_threshold: float, iou_threshold: float, max_detections: int = 100
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes [n,4] x1,y1,x2,y2 in pixels of the picture, scores [n] descending, classes [n]."""
        picture = cv2.imread(str(picture_path))
        ratio = min(self.height / picture.shape[0], self.width / picture.shape[1])
        size = (int(picture.shape[1] * ratio), int(picture.shape[0] * ratio))
        padded = np.ones((self.height, self.width, 3), np.uint8) * 114
        padded[: size[1], : size[0]] = cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR)
        blob = np.ascontiguousarray(padded.transpose(2, 0, 1), np.float32)[None]
        rows = self._decode(self.session.run(None, {self.session.get_inputs()[0].name: blob})[0][0])
        scores_per_class = rows[:, 4:5] * rows[:, 5:]
        classes, scores = scores_per_class.argmax(1), scores_per_class.max(1)
        centers, sizes = rows[:, :2], rows[:, 2:4]
        boxes = np.concatenate([centers - sizes / 2, centers + sizes / 2], 1) / ratio
        keep = scores >= score_threshold
        boxes, scores, classes = boxes[keep], scores[keep], classes[keep]
        kept = class_wise_nms(boxes, scores, classes, iou_threshold)[:max_detections]
        limits = np.array([picture.shape[1], picture.shape[0]] * 2)
        return np.clip(boxes[kept], 0, limits), scores[kept], classes[kept]

    def _decode(self, rows: np.ndarray) -> np.ndarray:
        grids, strides = [], []
        for stride in STRIDES:
            xv, yv = np.meshgrid(np.arange(self.width // stride), np.arange(self.height // stride))
            grids.append(np.stack((xv, yv), 2).reshape(-1, 2))
            strides.append(np.full((len(grids[-1]), 1), stride))
        grid, stride = np.concatenate(grids), np.concatenate(strides)
        rows = rows.copy()
        rows[:, :2] = (rows[:, :2] + grid) * stride
        rows[:, 2:4] = np.exp(rows[:, 2:4]) * stride
        return rows
