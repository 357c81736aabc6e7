"""The same .cfg and .weights read by OpenCV, which shares no line with the reader."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def rows(cfg_path: Path, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [A,4] x1,y1,x2,y2 in network pixels and scores [A,C] of one RGB uint8 picture of network size.

    OpenCV zeroes scores below the section's ``thresh``, 0.2 where it says nothing: here it says 0.
    """
    cfg = cfg_path.read_text().replace("[yolo]", "[yolo]\nthresh=0")
    weights = cfg_path.with_suffix(".weights").read_bytes()
    network = cv2.dnn.readNetFromDarknet(
        np.frombuffer(cfg.encode(), np.uint8), np.frombuffer(weights, np.uint8)
    )
    network.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    network.enableWinograd(False)
    network.setInput(cv2.dnn.blobFromImage(image, 1 / 255))
    found = np.concatenate(network.forward(network.getUnconnectedOutLayersNames()))
    height, width = image.shape[:2]
    center, size = found[:, :2] * (width, height), found[:, 2:4] * (width, height)
    return np.hstack([center - size / 2, center + size / 2]), found[:, 5:]
