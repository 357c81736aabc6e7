"""Printed or built patterns that resemble codes and are none: what teaches the detector to stay silent."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from zoo.scenes.symbols import maxicode
from zoo.scenes.textures import (
    Picture,
    as_bgr,
    blend_colours,
    contrasting_colour,
    draw_text_block,
    fractal_noise,
    random_colour,
)


def _two_colours(rng: np.random.Generator, printed: NDArray[Any], wh_px: tuple[int, int]) -> Picture:
    paper = random_colour(rng)
    ink = contrasting_colour(rng, paper)
    field = cv2.resize(printed.astype(np.float32), wh_px, interpolation=cv2.INTER_AREA)
    return blend_colours(np.clip(field, 0, 1), paper, ink)


def even_stripes(rng: np.random.Generator, wh_px: tuple[int, int]) -> Picture:
    """Fence, radiator, ruled paper, lamellae: stripes of one period, at times shaded like rods."""
    count, duty = int(rng.integers(4, 60)), rng.uniform(0.2, 0.8)
    phase = np.linspace(0, count, wh_px[0] * 2, dtype=np.float32) % 1
    profile = (
        (phase < duty).astype(np.float32) if rng.random() < 0.5 else 0.5 + 0.5 * np.sin(phase * 2 * np.pi)
    )
    return _two_colours(rng, np.repeat(profile[None], wh_px[1], 0), wh_px)


def few_stripes(rng: np.random.Generator, wh_px: tuple[int, int]) -> Picture:
    """A few coloured bands of uneven width (book spines, flags, packages)."""
    edges = np.sort(rng.integers(0, wh_px[0], int(rng.integers(2, 9))))
    picture = np.empty((wh_px[1], wh_px[0], 3), np.uint8)
    for start, stop in zip([0, *edges], [*edges, wh_px[0]], strict=True):
        picture[:, start:stop] = random_colour(rng)
    return picture


def checkerboard(rng: np.random.Generator, wh_px: tuple[int, int]) -> Picture:
    """Chess board, tiles, houndstooth."""
    rows, columns = rng.integers(2, 16, 2)
    return (
        _two_colours(rng, np.indices((rows * 8, columns * 8)).sum(0) // 8 % 2, wh_px)
        if rng.random() < 0.2
        else (_two_colours(rng, np.kron(np.indices((rows, columns)).sum(0) % 2, np.ones((16, 16))), wh_px))
    )


def grid_of_keys(rng: np.random.Generator, wh_px: tuple[int, int]) -> Picture:
    """Keyboard, window front, calendar: equal cells with gaps and marks in them."""
    base = random_colour(rng)
    picture = np.empty((wh_px[1], wh_px[0], 3), np.uint8)
    picture[:] = base
    rows, columns = int(rng.integers(2, 9)), int(rng.integers(3, 14))
    key, mark = contrasting_colour(rng, base, 25), contrasting_colour(rng, base)
    for row in range(rows):
        for column in range(columns):
            left, right = (int((column + f) * wh_px[0] / columns) for f in (0.08, 0.9))
            top, bottom = (int((row + f) * wh_px[1] / rows) for f in (0.08, 0.9))
            cv2.rectangle(picture, (left, top), (right, bottom), as_bgr(key * rng.uniform(0.9, 1.1)), -1)
            if rng.random() < 0.7 and bottom - top > 8:
                letter = chr(int(rng.integers(33, 91)))
                scale = (bottom - top) / 45
                cv2.putText(
                    picture, letter, (left + 2, (top + bottom) // 2 + 3), 0, scale, as_bgr(mark), 1, 16
                )
    return picture


def halftone(rng: np.random.Generator, wh_px: tuple[int, int]) -> Picture:
    """A raster of dots whose size follows a picture: print rasters, perforated sheet, speaker grille."""
    period = rng.uniform(4, max(5.0, max(wh_px) / 12))
    angle = rng.uniform(0, np.pi / 2)
    y, x = np.mgrid[0 : wh_px[1], 0 : wh_px[0]].astype(np.float32)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    wave = np.sin(u * 2 * np.pi / period) * np.sin(v * 2 * np.pi / period)
    level = fractal_noise(rng, wh_px) * 1.6 - 0.8 if rng.random() < 0.6 else rng.uniform(-0.6, 0.6)
    return _two_colours(rng, np.clip((wave - level) * period / 3 + 0.5, 0, 1), wh_px)


def block_noise(rng: np.random.Generator, wh_px: tuple[int, int]) -> Picture:
    """Random squares of many shades: mosaics, pixelated pictures, camouflage."""
    cells = rng.random((int(rng.integers(3, 22)), int(rng.integers(3, 22))))
    if rng.random() < 0.4:
        cells = cells * 0.6
    colours = (
        rng.random((*cells.shape, 3)) * 255 if rng.random() < 0.5 else np.repeat(cells[..., None] * 255, 3, 2)
    )
    return cv2.resize(colours.astype(np.uint8), wh_px, interpolation=cv2.INTER_NEAREST)  # type: ignore[return-value]


def rings(rng: np.random.Generator, wh_px: tuple[int, int]) -> Picture:
    """Concentric rings, squares or frames: targets, logos, buttons, speakers."""
    y, x = np.mgrid[-1 : 1 : wh_px[1] * 1j, -1 : 1 : wh_px[0] * 1j]
    distance = np.hypot(x, y) if rng.random() < 0.6 else np.maximum(abs(x), abs(y))
    return _two_colours(
        rng, (distance * rng.integers(2, 8) + rng.random()) % 1 > rng.uniform(0.3, 0.7), wh_px
    )


def table(rng: np.random.Generator, wh_px: tuple[int, int]) -> Picture:
    """A ruled table with short texts in its cells."""
    paper = random_colour(rng) if rng.random() < 0.4 else np.full(3, rng.uniform(200, 255), np.float32)
    ink = contrasting_colour(rng, paper)
    picture = np.empty((wh_px[1], wh_px[0], 3), np.uint8)
    picture[:] = paper
    xs = np.sort(rng.integers(0, wh_px[0], int(rng.integers(2, 6))))
    ys = np.linspace(0, wh_px[1] - 1, int(rng.integers(3, 14))).astype(int)
    for top, bottom in pairwise(ys):
        cv2.line(picture, (0, int(top)), (wh_px[0], int(top)), as_bgr(ink), 1)
        for left, right in zip([0, *xs[:-1]], xs, strict=True):
            if rng.random() < 0.75 and right - left > 10 and bottom - top > 7:
                box_px = (int(left) + 3, int(top) + 2, int(right - left) - 5, int(bottom - top) - 3)
                draw_text_block(picture, rng, box_px, ink)
    for x in xs:
        cv2.line(picture, (int(x), 0), (int(x), wh_px[1]), as_bgr(ink), 1)
    return picture


def paragraph(rng: np.random.Generator, wh_px: tuple[int, int]) -> Picture:
    """A block of print, dark on light or light on dark."""
    paper = random_colour(rng) if rng.random() < 0.5 else np.full(3, rng.uniform(200, 255), np.float32)
    picture = np.empty((wh_px[1], wh_px[0], 3), np.uint8)
    picture[:] = paper
    draw_text_block(picture, rng, (2, 2, wh_px[0] - 4, wh_px[1] - 4), contrasting_colour(rng, paper))
    return picture


def scale_marks(rng: np.random.Generator, wh_px: tuple[int, int]) -> Picture:
    """Ruler or gauge: ticks of few lengths along one edge, with numbers."""
    paper = random_colour(rng)
    ink = contrasting_colour(rng, paper)
    picture = np.empty((wh_px[1], wh_px[0], 3), np.uint8)
    picture[:] = paper
    count, group = int(rng.integers(15, 80)), int(rng.choice([5, 10]))
    for index in range(count):
        x = int((index + 0.5) * wh_px[0] / count)
        length = wh_px[1] * (0.55 if index % group == 0 else 0.3)
        cv2.line(picture, (x, 0), (x, int(length)), as_bgr(ink), max(1, wh_px[0] // count // 5))
        if index % group == 0:
            cv2.putText(picture, str(index), (x, wh_px[1] - 2), 0, wh_px[1] / 120, as_bgr(ink), 1, 16)
    return picture


def other_code(rng: np.random.Generator, wh_px: tuple[int, int]) -> Picture:
    """A MaxiCode, which is none of the five classes."""
    side = min(wh_px)
    picture = np.full((wh_px[1], wh_px[0], 3), 245, np.uint8)
    picture[:side, :side] = _two_colours(rng, np.pad(maxicode(rng), 8), (side, side))
    return picture


def piano(rng: np.random.Generator, wh_px: tuple[int, int]) -> Picture:
    """Zebra, piano keys, pedestrian crossing, wavy prints: stripes that bend or change length."""
    count = rng.uniform(3, 18)
    y, x = np.mgrid[0 : 1 : wh_px[1] * 1j, 0 : 1 : wh_px[0] * 1j]
    bend = fractal_noise(rng, wh_px) * rng.uniform(0.05, 0.5)
    printed = ((x + bend * (y + 0.3)) * count % 1 > rng.uniform(0.3, 0.7)).astype(np.float32)
    return _two_colours(rng, printed, wh_px)


_KINDS: tuple[tuple[Callable[[np.random.Generator, tuple[int, int]], Picture], float], ...] = (
    (paragraph, 0.22),
    (even_stripes, 0.14),
    (table, 0.11),
    (few_stripes, 0.06),
    (checkerboard, 0.08),
    (grid_of_keys, 0.08),
    (halftone, 0.07),
    (block_noise, 0.06),
    (rings, 0.06),
    (scale_marks, 0.05),
    (piano, 0.06),
    (other_code, 0.01),
)


def random_lookalike(rng: np.random.Generator, wh_px: tuple[int, int]) -> Picture:
    """Draw one look-alike of the given size, turned by a multiple of 90 degrees."""
    index = int(rng.choice(len(_KINDS), p=[weight for _, weight in _KINDS]))
    turned = bool(rng.random() < 0.4)
    width, height = max(12, wh_px[0]), max(12, wh_px[1])
    picture = _KINDS[index][0](rng, (height, width) if turned else (width, height))
    return np.ascontiguousarray(np.rot90(picture)) if turned else picture
