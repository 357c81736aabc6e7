"""A Darknet YOLO on one picture, read by OpenCV: a float pipeline that shares no line with the served one.

OpenCV computes the layers; the maps before the [yolo] sections are decoded here, since its own region layer
drops scores below .2. Source of the decode: Darknet, src/yolo_layer.c (get_yolo_box). Best class per anchor
and class-wise NMS, as everywhere in detserve.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from tests.reference.nms import class_wise_nms


class DarknetReference:
    """The untouched .cfg and .weights with Darknet's stretch to the network's size, RGB, 0..1."""

    def __init__(self, cfg_path: Path) -> None:
        lines = [line.strip() for line in cfg_path.read_text().splitlines()]
        blocks = "\n".join(lines).split("[")[1:]
        self.width, self.height = (int(_option(blocks[0], key)) for key in ("width", "height"))
        self.network = cv2.dnn.readNetFromDarknet(str(cfg_path), str(cfg_path.with_suffix(".weights")))
        self.yolos = [
            (f"conv_{index - 1}", block)
            for index, block in enumerate(blocks[1:])
            if block.startswith("yolo]")
        ]

    def __call__(
        self, picture_path: Path, *, score_threshold: float, iou_threshold: float, max_detections: int = 100
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes [n,4] x1,y1,x2,y2 in pixels of the picture, scores [n] descending, classes [n]."""
        picture = cv2.imread(str(picture_path))
        blob = cv2.dnn.blobFromImage(picture, 1 / 255, (self.width, self.height), swapRB=True)
        self.network.setInput(blob)
        maps = self.network.forward([name for name, _ in self.yolos])
        decoded = [self._decode(found[0], block) for found, (_, block) in zip(maps, self.yolos, strict=True)]
        boxes, scores_per_class = (np.concatenate(parts) for parts in zip(*decoded, strict=True))
        boxes = boxes * np.array([picture.shape[1], picture.shape[0]] * 2)
        classes, scores = scores_per_class.argmax(1), scores_per_class.max(1)
        keep = scores >= score_threshold
        boxes, scores, classes = boxes[keep], scores[keep], classes[keep]
        kept = class_wise_nms(boxes, scores, classes, iou_threshold)[:max_detections]
        limits = np.array([picture.shape[1], picture.shape[0]] * 2)
        return np.clip(boxes[kept], 0, limits), scores[kept], classes[kept]

    def _decode(self, found: np.ndarray, block: str) -> tuple[np.ndarray, np.ndarray]:
        """Boxes [A,4] as fractions of the picture, scores [A,C]."""
        mask = [int(index) for index in _option(block, "mask").split(",")]
        anchors = np.array([float(value) for value in _option(block, "anchors").split(",")]).reshape(-1, 2)
        height, width = found.shape[1:]
        boxes, scores = [], []
        for t, (anchor_w, anchor_h) in zip(np.split(found, len(mask)), anchors[mask], strict=True):
            columns, rows = np.meshgrid(np.arange(width), np.arange(height))
            x, y = (columns + _sigmoid(t[0])) / width, (rows + _sigmoid(t[1])) / height
            w, h = np.exp(t[2]) * anchor_w / self.width, np.exp(t[3]) * anchor_h / self.height
            boxes.append(np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1).reshape(-1, 4))
            scores.append((_sigmoid(t[5:]) * _sigmoid(t[4])).reshape(len(t) - 5, -1).T)
        return np.concatenate(boxes), np.concatenate(scores)


def _option(block: str, key: str) -> str:
    lines = (line.replace(" ", "") for line in block.splitlines())
    return next(line.partition("=")[2] for line in lines if line.startswith(f"{key}="))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x.astype(np.float64)))
