"""Short videos made from pictures: a window that pans over a row of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

SAMPLES = Path(__file__).parents[3] / "zoo/samples"


def panned(frames: int, wh: tuple[int, int] = (640, 480)) -> Iterator[NDArray[np.uint8]]:
    """Frames of a window that moves from left to right over a row of sample pictures."""
    width, height = wh
    names = ("scene_1.jpg", "scene_2.jpg", "scene_4.jpg", "scene_7.jpg")
    row = np.hstack([cv2.resize(cv2.imread(str(SAMPLES / name)), (height, height)) for name in names])
    for index in range(frames):
        x = round((row.shape[1] - width) * index / max(1, frames - 1))
        yield np.ascontiguousarray(row[:, x : x + width])


def write_clip(path: Path, frames: int, wh: tuple[int, int] = (640, 480), fps: float = 25) -> Path:
    """An MPEG-4 video by OpenCV, which shares no code with the reader under test."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), fps, wh)  # type: ignore[attr-defined]
    for pixels in panned(frames, wh):
        writer.write(pixels)
    writer.release()
    return path
