"""A torchvision detector on one picture: the untouched checkpoint is the whole pipeline but the resize.

No line is shared with the serving code. The picture is brought to the network's size as the zoo's recipes do
it: ratio kept, centred, grey around.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort


class TorchvisionReference:
    """A checkpoint with input ``image`` [3,S,S] and torchvision's outputs."""

    def __init__(self, onnx_path: Path) -> None:
        self.session = ort.InferenceSession(str(onnx_path), providers=["CPUExecutionProvider"])
        self.side = self.session.get_inputs()[0].shape[2]

    def __call__(
        self, picture_path: Path, *, score_threshold: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes [n,4] in pixels of the picture, scores [n] descending, classes [n] without background."""
        picture = cv2.cvtColor(cv2.imread(str(picture_path)), cv2.COLOR_BGR2RGB)
        height, width = picture.shape[:2]
        ratio = self.side / max(height, width)
        new_width, new_height = round(width * ratio), round(height * ratio)
        left, top = (self.side - new_width) // 2, (self.side - new_height) // 2
        padded = np.full((self.side, self.side, 3), 114, np.uint8)
        padded[top : top + new_height, left : left + new_width] = cv2.resize(picture, (new_width, new_height))
        feed = {"image": (padded / 255).astype(np.float32).transpose(2, 0, 1)}
        boxes, labels, scores = self.session.run(["boxes", "labels", "scores"], feed)
        keep = scores >= score_threshold
        ratios = np.tile([new_width / width, new_height / height], 2)  # whole pixels: not quite the same
        boxes = (boxes[keep] - [left, top, left, top]) / ratios
        return np.clip(boxes, 0, [width, height, width, height]), scores[keep], labels[keep] - 1
