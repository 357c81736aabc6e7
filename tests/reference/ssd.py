"""SSD on one picture: the untouched decoded checkpoint and plain numpy.

No line is shared with the serving code. Sources: UltraFace's detect_imgs_onnx.py, and TensorFlow's SSD with
(x - 128) / 128. Best class per anchor and class-wise NMS, as everywhere in detserve.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort

from tests.reference.nms import class_wise_nms


class SsdReference:
    """A checkpoint with outputs ``boxes``, x1,y1,x2,y2 as fractions, and ``scores``, activated."""

    def __init__(
        self, onnx_path: Path, *, input_wh: tuple[int, int], mean: float, columns: Sequence[int]
    ) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3  # UltraFace lists its weights as inputs, which is worth a warning each
        self.session = ort.InferenceSession(str(onnx_path), options, providers=["CPUExecutionProvider"])
        self.input_wh, self.mean, self.columns = input_wh, mean, np.array(columns)

    def __call__(
        self, picture_path: Path, *, score_threshold: float, iou_threshold: float, max_detections: int = 100
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes [n,4] in pixels of the picture, scores [n] descending, score columns [n]."""
        picture = cv2.cvtColor(cv2.imread(str(picture_path)), cv2.COLOR_BGR2RGB)
        height, width = picture.shape[:2]
        resized = cv2.resize(picture, self.input_wh)
        blob = ((resized.astype(np.float32) - self.mean) / 128).transpose(2, 0, 1)[None]
        boxes, table = self.session.run(["boxes", "scores"], {"input": blob.astype(np.float32)})
        best = table[0][:, self.columns]
        classes, scores = self.columns[best.argmax(1)], best.max(1)
        keep = scores >= score_threshold
        pixels = boxes[0][keep] * np.array([width, height, width, height])
        scores, classes = scores[keep], classes[keep]
        kept = class_wise_nms(pixels, scores, classes, iou_threshold)[:max_detections]
        return np.clip(pixels[kept], 0, [width, height, width, height]), scores[kept], classes[kept]
