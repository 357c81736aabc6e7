"""The product's way to bring a picture to the network's size: ratio kept, centred, padded with grey."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

PAD_VALUE = 114


def letterbox(picture: NDArray[np.uint8], side_px: int) -> tuple[NDArray[np.uint8], float, tuple[int, int]]:
    """Resize uint8 [h, w, 3] into [side, side, 3]; also returns the factor and the padding (left, top)."""
    height, width = picture.shape[:2]
    factor = side_px / max(height, width)
    size_wh = max(1, round(width * factor)), max(1, round(height * factor))
    left, top = (side_px - size_wh[0]) // 2, (side_px - size_wh[1]) // 2
    square = np.full((side_px, side_px, 3), PAD_VALUE, np.uint8)
    resized = cv2.resize(picture, size_wh, interpolation=cv2.INTER_LINEAR)
    square[top : top + size_wh[1], left : left + size_wh[0]] = resized
    return square, factor, (left, top)
