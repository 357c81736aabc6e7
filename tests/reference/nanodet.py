"""NanoDet and PicoDet on one picture as their authors run them, float, with no line of the served pipeline.

Sources: NanoDet, nanodet_m.yml (keep_ratio: scaled to fit, centred on black) and gfl_head.py;
PaddleDetection, picodet_320_reader.yml (stretched RGB, cubic there, linear here) and pico_head.py.
Distances are the expectation of eight bins, from the middle of the cell. Best class per cell and
class-wise NMS, as everywhere in detserve.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort

from tests.reference.nms import class_wise_nms

MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])


class NanoDetReference:
    """A checkpoint with scores in 0..1 and distances of each stride, scores first, finest stride first."""

    def __init__(self, onnx_path: Path, *, strides: tuple[int, ...], keep_ratio: bool, rgb: bool) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3  # NanoDet lists its weights as inputs, which is worth a warning each
        self.session = ort.InferenceSession(str(onnx_path), options, providers=["CPUExecutionProvider"])
        self.height, self.width = self.session.get_inputs()[0].shape[2:]
        self.strides, self.keep_ratio, self.rgb = strides, keep_ratio, rgb

    def __call__(
        self, picture_path: Path, *, score_threshold: float, iou_threshold: float, max_detections: int = 100
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes [n,4] x1,y1,x2,y2 in pixels of the picture, scores [n] descending, classes [n]."""
        picture = cv2.imread(str(picture_path))
        size_wh = np.array(picture.shape[1::-1])
        canvas, ratio_xy, shift_xy = self._canvas(picture)
        order = slice(None, None, -1) if self.rgb else slice(None)
        mean, std = (MEAN, STD) if self.rgb else (MEAN[::-1], STD[::-1])
        blob = ((canvas[..., order] - mean) / std).transpose(2, 0, 1)[None].astype(np.float32)
        outputs = self.session.run(None, {self.session.get_inputs()[0].name: blob})
        boxes, scores, classes = [], [], []
        for level, stride in enumerate(self.strides):
            table, distances = outputs[level][0], outputs[level + len(self.strides)][0]
            weights = np.exp(distances.reshape(-1, 4, 8))
            ltrb = (weights * np.arange(8)).sum(2) / weights.sum(2) * stride
            columns = self.width // stride
            cells = np.arange(len(table))
            centre = (np.stack([cells % columns, cells // columns], 1) + 0.5) * stride
            boxes.append(np.concatenate([centre - ltrb[:, :2], centre + ltrb[:, 2:]], 1))
            scores.append(table.max(1))
            classes.append(table.argmax(1))
        found, score, label = np.concatenate(boxes), np.concatenate(scores), np.concatenate(classes)
        keep = score >= score_threshold
        found, score, label = found[keep], score[keep], label[keep]
        kept = class_wise_nms(found, score, label, iou_threshold)[:max_detections]
        pixels = (found[kept] - np.tile(shift_xy, 2)) / np.tile(ratio_xy, 2)
        return np.clip(pixels, 0, np.tile(size_wh, 2)), score[kept], label[kept]

    def _canvas(self, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        size_wh, target_wh = np.array(picture.shape[1::-1]), np.array([self.width, self.height])
        if not self.keep_ratio:
            return cv2.resize(picture, target_wh.tolist()), target_wh / size_wh, np.zeros(2)
        ratio = (target_wh / size_wh).min()
        inner_wh = np.round(size_wh * ratio).astype(int)
        left, top = (target_wh - inner_wh) // 2
        canvas = np.zeros((self.height, self.width, 3), np.uint8)
        canvas[top : top + inner_wh[1], left : left + inner_wh[0]] = cv2.resize(picture, inner_wh.tolist())
        return canvas, inner_wh / size_wh, np.array([left, top])
