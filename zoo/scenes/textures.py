"""Noise fields, colours and words: the raw material of backgrounds, surfaces and look-alikes."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
"""uint8 [height, width, 3], RGB."""

Field = NDArray[np.float32]
"""float32 [height, width]."""

_FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
    cv2.FONT_HERSHEY_PLAIN,
)


def smooth_noise(rng: np.random.Generator, wh_px: tuple[int, int], cell_px: tuple[float, float]) -> Field:
    """Value noise in [0, 1] whose blobs are about `cell_px` (x, y) large."""
    width, height = wh_px
    columns = max(2, round(width / max(cell_px[0], 1.0)) + 1)
    rows = max(2, round(height / max(cell_px[1], 1.0)) + 1)
    grid = rng.random((min(rows, height + 1), min(columns, width + 1)), dtype=np.float32)
    field = cv2.resize(grid, wh_px, interpolation=cv2.INTER_CUBIC)
    return np.clip(field, 0, 1).astype(np.float32)


def fractal_noise(rng: np.random.Generator, wh_px: tuple[int, int], stretch: float = 1.0) -> Field:
    """Noise with the falling spectrum of natural pictures, in [0, 1]; `stretch` > 1 draws it out along x."""
    field = np.zeros((wh_px[1], wh_px[0]), np.float32)
    cell_px, weight, total = max(wh_px) / 2.0, 1.0, 0.0
    fall = float(rng.uniform(0.45, 0.85))
    while cell_px >= 2 and weight > 0.05:
        field += weight * smooth_noise(rng, wh_px, (cell_px * stretch, cell_px))
        total += weight
        cell_px, weight = cell_px / 2, weight * fall
    return field / total


def random_colour(rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw an RGB colour 0..255; greys, whites and browns are as common as they are on real things."""
    kind = rng.choice(5, p=(0.3, 0.2, 0.12, 0.1, 0.28))
    if kind == 0:
        colour = np.full(3, rng.uniform(20, 240)) + rng.normal(0, 6, 3)
    elif kind == 1:
        colour = np.full(3, rng.uniform(195, 255)) + rng.normal(0, 6, 3)
    elif kind == 2:
        colour = np.array((170, 130, 90)) * rng.uniform(0.5, 1.3) + rng.normal(0, 8, 3)
    elif kind == 3:
        colour = np.full(3, rng.uniform(0, 50)) + rng.normal(0, 5, 3)
    else:
        colour = rng.uniform(0, 255, 3)
    return np.asarray(np.clip(colour, 0, 255), np.float32)


def contrasting_colour(
    rng: np.random.Generator, other: NDArray[np.float32], least: float = 70.0
) -> NDArray[np.float32]:
    """Draw a colour whose brightness differs from `other`'s by at least `least`."""
    for _ in range(8):
        colour = random_colour(rng)
        if abs(float(colour.mean() - other.mean())) >= least:
            return colour
    return np.full(3, 15.0 if other.mean() > 127 else 240.0, np.float32)


def blend_colours(field: Field, first: NDArray[np.float32], second: NDArray[np.float32]) -> Picture:
    """Map a field in [0, 1] onto the line between two colours."""
    # A table of 256 steps is ten times as fast as arithmetic on every pixel.
    steps = np.linspace(0, 1, 256)[:, None]
    table = np.clip(first + steps * (second - first), 0, 255).astype(np.uint8)
    index = cv2.convertScaleAbs(field, alpha=255)
    return cv2.LUT(cv2.merge([index, index, index]), table[None])  # type: ignore[return-value]


def as_bgr(colour: NDArray[np.float32]) -> tuple[float, float, float]:
    """Three floats for OpenCV's drawing functions (which do not care about the channel order)."""
    return float(colour[0]), float(colour[1]), float(colour[2])


def random_word(rng: np.random.Generator) -> str:
    """Draw a pronounceable word, a number, a price or a unit."""
    kind = rng.random()
    if kind < 0.7:
        pairs = [
            rng.choice(list("bcdfghklmnprstvw")) + rng.choice(list("aeiou"))
            for _ in range(rng.integers(1, 5))
        ]
        word = "".join(pairs) + str(rng.choice(["", "n", "s", "r", "t"]))
        return word.upper() if rng.random() < 0.3 else word.capitalize() if rng.random() < 0.3 else word
    if kind < 0.9:
        return str(rng.integers(0, 10 ** int(rng.integers(1, 9))))
    return f"{rng.uniform(0, 500):.2f}{rng.choice(['', ' EUR', '%', ' kg', ' ml'])}"


def draw_text_block(
    picture: Picture, rng: np.random.Generator, box_px: tuple[int, int, int, int], colour: NDArray[np.float32]
) -> None:
    """Fill the box x, y, w, h with lines of words, in place."""
    x, y, width, height = box_px
    if width < 8 or height < 5:
        return
    line_px = float(np.clip(height / rng.uniform(1, 9), 5, 90))
    font, scale = int(rng.choice(_FONTS)), line_px / 34
    if font == cv2.FONT_HERSHEY_PLAIN:
        scale *= 1.8
    thickness = max(1, round(line_px / 34 * rng.uniform(1, 4)))
    # Text is drawn into a view of the box so that it never leaves it.
    view = np.ascontiguousarray(picture[y : y + height, x : x + width])
    baseline_px = line_px * 0.8
    while baseline_px < height:
        words = " ".join(random_word(rng) for _ in range(max(1, int(width / line_px / 2))))
        cv2.putText(view, words, (2, int(baseline_px)), font, scale, as_bgr(colour), thickness, cv2.LINE_AA)
        baseline_px += line_px * rng.uniform(0.95, 1.3)
    picture[y : y + height, x : x + width] = view
