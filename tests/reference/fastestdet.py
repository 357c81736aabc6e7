"""FastestDet on one picture as its author runs it: a float pipeline that shares no line with the served one.

Source: FastestDet, utils/tool.py (handle_preds) and test.py: stretched BGR in 0..1, score obj^.6 * cls^.4.
Best class per cell and class-wise NMS, as everywhere in detserve.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort

from tests.reference.nms import class_wise_nms


class FastestDetReference:
    """The untouched checkpoint with its published pre- and postprocessing."""

    def __init__(self, onnx_path: Path) -> None:
        self.session = ort.InferenceSession(str(onnx_path), providers=["CPUExecutionProvider"])
        self.height, self.width = self.session.get_inputs()[0].shape[2:]

    def __call__(
        self, picture_path: Path, *, score_threshold: float, iou_threshold: float, max_detections: int = 100
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes [n,4] x1,y1,x2,y2 in pixels of the picture, scores [n] descending, classes [n]."""
        picture = cv2.imread(str(picture_path))
        picture_h, picture_w = picture.shape[:2]
        resized = cv2.resize(picture, (self.width, self.height), interpolation=cv2.INTER_LINEAR)
        blob = (resized.astype(np.float32) / 255).transpose(2, 0, 1)[None]
        feature_map = self.session.run(None, {self.session.get_inputs()[0].name: blob})[0][0]
        found = []
        rows, columns = feature_map.shape[1:]
        for row in range(rows):
            for column in range(columns):
                cell = feature_map[:, row, column]
                label = int(cell[5:].argmax())
                score = cell[0] ** 0.6 * cell[5 + label] ** 0.4
                if score < score_threshold:
                    continue
                cx = (column + np.tanh(cell[1])) / columns
                cy = (row + np.tanh(cell[2])) / rows
                w, h = 1 / (1 + np.exp(-cell[3])), 1 / (1 + np.exp(-cell[4]))
                found.append(
                    (
                        (cx - w / 2) * picture_w,
                        (cy - h / 2) * picture_h,
                        (cx + w / 2) * picture_w,
                        (cy + h / 2) * picture_h,
                        score,
                        label,
                    )
                )
        table = np.array(found, np.float64).reshape(-1, 6)
        kept = class_wise_nms(table[:, :4], table[:, 4], table[:, 5], iou_threshold)
        table = table[kept[:max_detections]]
        limits = np.array([picture_w, picture_h] * 2)
        return np.clip(table[:, :4], 0, limits), table[:, 4], table[:, 5].astype(int)
