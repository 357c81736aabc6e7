"""What stands behind the codes: textures, dead leaves, shelves, printed pages, clutter."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from zoo.scenes.lookalikes import paragraph, random_lookalike
from zoo.scenes.textures import (
    Picture,
    as_bgr,
    blend_colours,
    draw_text_block,
    fractal_noise,
    random_colour,
    smooth_noise,
)


def plain(rng: np.random.Generator, wh_px: tuple[int, int]) -> Picture:
    """A wall or a table top: two near colours in a slow gradient, little grain."""
    first = random_colour(rng)
    second = np.clip(first + rng.normal(0, 22, 3), 0, 255).astype(np.float32)
    return blend_colours(smooth_noise(rng, wh_px, (wh_px[0] / 2, wh_px[1] / 2)), first, second)


def material(rng: np.random.Generator, wh_px: tuple[int, int]) -> Picture:
    """Stone, carpet, paper, wood (the stretched case)."""
    stretch = float(rng.choice([1.0, 1.0, rng.uniform(4, 25)]))
    field = fractal_noise(rng, wh_px, stretch)
    if rng.random() < 0.4:  # veins and grain: fold the field
        field = np.abs(((field * rng.uniform(3, 14)) % 2) - 1).astype(np.float32)
    first = random_colour(rng)
    near = rng.random() < 0.6
    second = np.clip(first + rng.normal(0, 45, 3), 0, 255).astype(np.float32) if near else random_colour(rng)
    picture = blend_colours(field, first, second)
    if stretch > 1 and rng.random() < 0.5:
        picture = cv2.resize(np.rot90(picture), wh_px)  # type: ignore[assignment]
    return picture


def fabric(rng: np.random.Generator, wh_px: tuple[int, int]) -> Picture:
    """A weave: two crossed waves over noise."""
    y, x = np.mgrid[0 : wh_px[1], 0 : wh_px[0]].astype(np.float32)
    bend = fractal_noise(rng, wh_px) * rng.uniform(0, 30)
    period_px = rng.uniform(2.5, 14)
    wave = np.sin((x + bend) * 2 * np.pi / period_px) * np.sin((y + bend) * 2 * np.pi / period_px)
    field = np.clip(0.5 + 0.3 * wave + 0.4 * (fractal_noise(rng, wh_px) - 0.5), 0, 1).astype(np.float32)
    return blend_colours(field, random_colour(rng), random_colour(rng))


def _leaf(
    picture: Picture, rng: np.random.Generator, radius_px: float, colour: tuple[float, float, float]
) -> None:
    height, width = picture.shape[:2]
    centre = int(rng.integers(0, width)), int(rng.integers(0, height))
    kind = rng.random()
    if kind < 0.35:
        axes = max(1, int(radius_px * rng.uniform(0.2, 1))), max(1, int(radius_px))
        cv2.ellipse(picture, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
    elif kind < 0.85:
        size = (radius_px * float(rng.uniform(0.3, 2)), radius_px * 2)
        corners = cv2.boxPoints((centre, size, float(rng.uniform(0, 180)) * (rng.random() < 0.6)))
        cv2.fillPoly(picture, [corners.astype(np.int32)], colour, cv2.LINE_AA)
    else:
        points = (np.array(centre) + rng.normal(0, radius_px, (int(rng.integers(3, 7)), 2))).astype(np.int32)
        cv2.fillPoly(picture, [points], colour, cv2.LINE_AA)


def dead_leaves(rng: np.random.Generator, wh_px: tuple[int, int]) -> Picture:
    """Shapes of all sizes that hide each other: the statistics of natural pictures without their objects."""
    picture = plain(rng, wh_px)
    count = int(rng.integers(20, 260))
    # The density of sizes falls with the third power, as in natural scenes.
    least, most = 0.006 * max(wh_px), rng.uniform(0.1, 0.4) * max(wh_px)
    uniform = rng.random(count)
    radii = 1 / np.sqrt(uniform / least**2 + (1 - uniform) / most**2)
    palette = [random_colour(rng) for _ in range(int(rng.integers(3, 12)))]
    for radius_px in radii:
        colour = palette[int(rng.integers(len(palette)))] + rng.normal(0, 15, 3)
        _leaf(picture, rng, float(radius_px), as_bgr(np.clip(colour, 0, 255).astype(np.float32)))
    shade = 0.6 + 0.8 * fractal_noise(rng, wh_px)
    return np.clip(picture * shade[..., None], 0, 255).astype(np.uint8)


def shelf(rng: np.random.Generator, wh_px: tuple[int, int]) -> Picture:
    """Rows of boxes, books and packages with print on them."""
    picture = plain(rng, wh_px)
    y = 0
    while y < wh_px[1]:
        row_px = int(wh_px[1] * rng.uniform(0.15, 0.6))
        x = 0
        while x < wh_px[0]:
            item_px = int(wh_px[0] * rng.uniform(0.03, 0.3)) + 4
            colour = random_colour(rng)
            top = y + int(row_px * rng.uniform(0, 0.3))
            cv2.rectangle(picture, (x, top), (x + item_px, y + row_px - 4), as_bgr(colour), -1)
            if rng.random() < 0.6:
                box_px = (
                    x + 3,
                    top + 3,
                    min(item_px - 6, wh_px[0] - x - 6),
                    min(row_px // 2, wh_px[1] - top - 6),
                )
                draw_text_block(picture, rng, box_px, random_colour(rng))
            x += item_px + int(rng.integers(0, 6))
        y += row_px
    return picture


def printed_page(rng: np.random.Generator, wh_px: tuple[int, int]) -> Picture:
    """A page or a screen seen close: columns of text and pictures."""
    picture = paragraph(rng, wh_px)
    for _ in range(int(rng.integers(1, 7))):
        paste_somewhere(picture, rng, (0.15, 0.6))
    return picture


def tiles(rng: np.random.Generator, wh_px: tuple[int, int]) -> Picture:
    """Bricks, tiles, window fronts."""
    joint, base = random_colour(rng), random_colour(rng)
    picture = np.empty((wh_px[1], wh_px[0], 3), np.uint8)
    picture[:] = joint
    cell_w, cell_h = (max(8, int(max(wh_px) * rng.uniform(0.03, 0.25))) for _ in range(2))
    gap, shifted = max(1, int(cell_h * rng.uniform(0.03, 0.15))), rng.random() < 0.6
    for row, y in enumerate(range(0, wh_px[1], cell_h)):
        for x in range(-cell_w // 2 if shifted and row % 2 else 0, wh_px[0], cell_w):
            colour = as_bgr(np.clip(base + rng.normal(0, 14, 3), 0, 255).astype(np.float32))
            cv2.rectangle(picture, (x + gap, y + gap), (x + cell_w - gap, y + cell_h - gap), colour, -1)
    return picture


def paste_somewhere(picture: Picture, rng: np.random.Generator, size_range: tuple[float, float]) -> None:
    """Paste a look-alike, turned and slightly tilted, at a random place (it may be cut), in place."""
    height, width = picture.shape[:2]
    long_px = max(width, height) * float(np.exp(rng.uniform(*np.log(size_range))))
    aspect = float(np.exp(rng.uniform(-1.2, 1.2)))
    item_wh = max(12, int(long_px * min(1, aspect))), max(12, int(long_px * min(1, 1 / aspect)))
    item = random_lookalike(rng, item_wh)
    source = np.array([[0, 0], [item_wh[0], 0], item_wh, [0, item_wh[1]]], np.float32)
    angle = rng.normal(0, 0.12) if rng.random() < 0.6 else rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = (source - source.mean(0)) @ turn.T + rng.normal(0, 0.04, (4, 2)) * long_px
    corners += rng.random(2) * (width, height)
    # Only the part of the picture under the item is warped: it is small, the picture is not.
    left, top = (int(v) for v in np.clip(np.floor(corners.min(0)), 0, (width - 1, height - 1)))
    right, low = (int(v) for v in np.clip(np.ceil(corners.max(0)), 1, (width, height)))
    if right - left < 2 or low - top < 2:
        return
    matrix = cv2.getPerspectiveTransform(source, (corners - (left, top)).astype(np.float32))
    view = np.ascontiguousarray(picture[top:low, left:right])
    # BORDER_TRANSPARENT writes only where the item lies.
    cv2.warpPerspective(item, matrix, view.shape[1::-1], view, cv2.INTER_LINEAR, cv2.BORDER_TRANSPARENT)
    picture[top:low, left:right] = view


_KINDS: tuple[tuple[Callable[[np.random.Generator, tuple[int, int]], Picture], float], ...] = (
    (plain, 0.16),
    (material, 0.23),
    (fabric, 0.06),
    (dead_leaves, 0.28),
    (shelf, 0.1),
    (printed_page, 0.1),
    (tiles, 0.07),
)


def random_background(rng: np.random.Generator, wh_px: tuple[int, int], clutter: float) -> Picture:
    """Draw a background; `clutter` is the expected number of look-alikes on it."""
    index = int(rng.choice(len(_KINDS), p=[weight for _, weight in _KINDS]))
    picture = _KINDS[index][0](rng, wh_px)
    for _ in range(int(rng.poisson(clutter))):
        paste_somewhere(picture, rng, (0.06, 0.7))
    if rng.random() < 0.3:  # out of focus behind the subject
        picture = cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(1, 9)))  # type: ignore[assignment]
    return picture
