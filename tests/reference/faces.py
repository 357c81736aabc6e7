"""Face detectors on one picture as their authors run them: float, with no line of the served pipeline.

Sources: YuNet, libfacedetection.train, yunet_head.py and OpenCV's face_detect.cpp; RetinaFace, biubug6's
detect.py and prior_box.py; BlazeFace, MediaPipe's face_detection_short_range and
tflite_tensors_to_detections. Pictures are scaled to fit and laid onto black. Class-wise NMS, as
everywhere in detserve.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort

from tests.reference.nms import class_wise_nms

Outputs = dict[str, np.ndarray]
Found = tuple[np.ndarray, np.ndarray]


class FaceReference:
    """A checkpoint with its published pre- and postprocessing; the picture lies centred or top left."""

    def __init__(
        self,
        onnx_path: Path,
        decode: Callable[[Outputs, int], Iterator[tuple[float, ...]]],
        *,
        centred: bool,
        blob: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        self.session = ort.InferenceSession(str(onnx_path), providers=["CPUExecutionProvider"])
        self.decode, self.centred, self.blob = decode, centred, blob

    def __call__(self, picture: np.ndarray, *, score_threshold: float, iou_threshold: float) -> Found:
        """Boxes [n,4] in pixels of the BGR picture, and scores [n] descending."""
        feed = self.session.get_inputs()[0]
        side = max(feed.shape[1:])
        height, width = picture.shape[:2]
        ratio = side / max(height, width)
        inner_w, inner_h = round(width * ratio), round(height * ratio)
        left, top = ((side - inner_w) // 2, (side - inner_h) // 2) if self.centred else (0, 0)
        canvas = np.zeros((side, side, 3), np.float32)
        canvas[top : top + inner_h, left : left + inner_w] = cv2.resize(picture, (inner_w, inner_h))
        names = [output.name for output in self.session.get_outputs()]
        values = self.session.run(names, {feed.name: self.blob(canvas)[None].astype(np.float32)})
        outputs = {name: value[0] for name, value in zip(names, values, strict=True)}
        rows = [row for row in self.decode(outputs, side) if row[4] >= score_threshold]
        table = np.array(rows, np.float64).reshape(-1, 5)
        shift, scale = np.array([left, top] * 2), np.array([inner_w / width, inner_h / height] * 2)
        boxes, scores = (table[:, :4] - shift) / scale, table[:, 4]
        kept = class_wise_nms(table[:, :4], scores, np.zeros(len(table)), iou_threshold)
        return np.clip(boxes[kept], 0, [width, height] * 2), scores[kept]


def yunet(onnx_path: Path) -> FaceReference:
    return FaceReference(onnx_path, _yunet, centred=False, blob=lambda bgr: bgr.transpose(2, 0, 1))


def retinaface(onnx_path: Path) -> FaceReference:
    return FaceReference(
        onnx_path, _retinaface, centred=False, blob=lambda bgr: (bgr - [104, 117, 123]).transpose(2, 0, 1)
    )


def blazeface(onnx_path: Path) -> FaceReference:
    return FaceReference(onnx_path, _blazeface, centred=True, blob=lambda bgr: bgr[..., ::-1] / 127.5 - 1)


def _yunet(outputs: Outputs, side: int) -> Iterator[tuple[float, ...]]:
    for stride in (8, 16, 32):
        columns = side // stride
        for index, (tx, ty, tw, th) in enumerate(outputs[f"bbox_{stride}"]):
            row, column = divmod(index, columns)
            score = (outputs[f"cls_{stride}"][index, 0] * outputs[f"obj_{stride}"][index, 0]) ** 0.5
            yield _corners(
                (column + tx) * stride, (row + ty) * stride, np.exp(tw) * stride, np.exp(th) * stride, score
            )


def _retinaface(outputs: Outputs, side: int) -> Iterator[tuple[float, ...]]:
    rows = iter(outputs["output0"])
    for stride, sizes in ((8, (16, 32)), (16, (64, 128)), (32, (256, 512))):
        for y in range(side // stride):
            for x in range(side // stride):
                for size in sizes:
                    tx, ty, tw, th, background, face = next(rows)[:6]
                    yield _corners(
                        (x + 0.5) * stride + tx * 0.1 * size,
                        (y + 0.5) * stride + ty * 0.1 * size,
                        size * np.exp(0.2 * tw),
                        size * np.exp(0.2 * th),
                        1 / (1 + np.exp(background - face)),
                    )


def _blazeface(outputs: Outputs, side: int) -> Iterator[tuple[float, ...]]:
    """Two boxes in each of 16x16 cells, six in each of 8x8; all in pixels from the middle of the cell."""
    boxes = np.concatenate([outputs["Identity_2:0"], outputs["Identity_3:0"]])
    scores = np.concatenate([outputs["Identity:0"], outputs["Identity_1:0"]])[:, 0]
    index = 0
    for cells, per_cell in ((16, 2), (8, 6)):
        for y in range(cells):
            for x in range(cells):
                for _ in range(per_cell):
                    tx, ty, w, h = boxes[index, :4]
                    cx, cy = (x + 0.5) / cells * side + tx, (y + 0.5) / cells * side + ty
                    yield _corners(cx, cy, w, h, 1 / (1 + np.exp(-np.clip(scores[index], -80, 80))))
                    index += 1


def _corners(cx: float, cy: float, w: float, h: float, score: float) -> tuple[float, ...]:
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2, score
