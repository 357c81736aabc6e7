"""Flat things that carry codes: labels, packages, pages; and how they bend."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from zoo.scenes.backgrounds import paste_somewhere, plain
from zoo.scenes.printing import Print, print_symbol
from zoo.scenes.symbols import Symbol
from zoo.scenes.textures import Picture, as_bgr, draw_text_block, fractal_noise, random_colour, smooth_noise


@dataclass
class Surface:
    """A carrier of codes.

    `picture`: uint8 [h, w, 3]; `alpha`: uint8 [h, w], 0 or 255; `ids`: uint8 [h, w], 0 = no symbol, k = the
    k-th of `labels` (counted from 1).
    """

    picture: Picture
    alpha: NDArray[np.uint8]
    ids: NDArray[np.uint8]
    labels: list[str] = field(default_factory=list)

    def paste(self, printed: Print, x: int, y: int) -> None:
        """Paste a print at x, y, cut at the edges of the surface."""
        height = min(printed.picture.shape[0], self.picture.shape[0] - y)
        width = min(printed.picture.shape[1], self.picture.shape[1] - x)
        self.labels.append(printed.label)
        self.picture[y : y + height, x : x + width] = printed.picture[:height, :width]
        self.ids[y : y + height, x : x + width] = printed.inside[:height, :width] * len(self.labels)


def _blank(picture: Picture) -> Surface:
    height, width = picture.shape[:2]
    return Surface(picture, np.full((height, width), 255, np.uint8), np.zeros((height, width), np.uint8))


def label_surface(rng: np.random.Generator, printed: Print) -> Surface:
    """A sticker: the code, its quiet zone and at times a margin with text in the paper's colour."""
    paper = printed.picture[0, 0].astype(np.float32)
    height, width = printed.picture.shape[:2]
    if rng.random() < 0.35:
        margins = np.zeros(4, int)
    else:
        margins = (rng.random(4) * rng.uniform(0.05, 0.7) * max(height, width)).astype(int)
    top, bottom, left, right = (int(margin) for margin in margins)
    picture = np.empty((height + top + bottom, width + left + right, 3), np.uint8)
    picture[:] = paper
    ink = (
        random_colour(rng)
        if rng.random() < 0.3
        else np.full(3, 20.0 if paper.mean() > 127 else 230.0, np.float32)
    )
    boxes = ((3, 3, picture.shape[1] - 6, top - 6), (3, top + height + 3, picture.shape[1] - 6, bottom - 6))
    for box_px in boxes:
        if box_px[3] > 8 and rng.random() < 0.7:
            draw_text_block(picture, rng, box_px, ink)
    surface = _blank(picture)
    surface.paste(printed, left, top)
    if rng.random() < 0.25:
        frame_px = max(1, int(rng.uniform(0.005, 0.02) * width))
        cv2.rectangle(picture, (0, 0), (picture.shape[1] - 1, picture.shape[0] - 1), as_bgr(ink), frame_px)
    return surface


def package_surface(rng: np.random.Generator, prints: list[Print], share: float) -> Surface:
    """A package, page or card: ground, text, pictures, and the codes at free places.

    `share`: the longest code as a part of the surface's longer side.
    """
    longest = max(max(printed.picture.shape[:2]) for printed in prints)
    long_px = int(longest / share)
    aspect = rng.uniform(0.5, 1)
    short_px = max(int(long_px * aspect), *(min(printed.picture.shape[:2]) for printed in prints))
    wh_px = (long_px, short_px) if rng.random() < 0.5 else (short_px, long_px)
    wh_px = tuple(max(wh_px[axis], *(p.picture.shape[1 - axis] + 4 for p in prints)) for axis in (0, 1))  # type: ignore[assignment]
    surface = _blank(plain(rng, wh_px))
    for _ in range(int(rng.integers(2, 9))):
        paste_somewhere(surface.picture, rng, (0.1, 0.6))
    taken: list[tuple[int, int, int, int]] = []
    for printed in prints:
        place = _free_place(rng, wh_px, printed, taken)
        if place:
            surface.paste(printed, *place)
    return surface


def _free_place(
    rng: np.random.Generator, wh_px: tuple[int, int], printed: Print, taken: list[tuple[int, int, int, int]]
) -> tuple[int, int] | None:
    height, width = printed.picture.shape[:2]
    for _ in range(15):
        x = int(rng.integers(0, max(1, wh_px[0] - width)))
        y = int(rng.integers(0, max(1, wh_px[1] - height)))
        if all(
            x >= right or y >= low or x + width <= left or y + height <= top
            for left, top, right, low in taken
        ):
            taken.append((x, y, x + width, y + height))
            return x, y
    return None


def random_surface(rng: np.random.Generator, symbols: list[tuple[Symbol, float]]) -> Surface:
    """Print the symbols (each with its size in pixels) on one carrier; more than one asks for a package."""
    prints = [print_symbol(symbol, rng, size_px) for symbol, size_px in symbols]
    if len(prints) == 1 and rng.random() < 0.5:
        return label_surface(rng, prints[0])
    return package_surface(rng, prints, float(rng.uniform(0.2, 0.85)))


def bend(surface: Surface, rng: np.random.Generator) -> Surface:
    """Wrap the surface around a cylinder and/or crumple it a little."""
    height, width = surface.picture.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    shade = np.ones((height, width), np.float32)
    if rng.random() < 0.6:
        strength, turned = float(rng.uniform(0.3, 0.95)), rng.random() < 0.3
        along, across, size = (y, x, height) if turned else (x, y, width)
        position = along / size * 2 - 1
        new_along = (np.arcsin(position * strength) / np.arcsin(strength) + 1) / 2 * size
        rise = rng.uniform(-0.15, 0.15) * size * (np.sqrt(1 - (position * strength) ** 2) - 1)
        x, y = (across + rise, new_along) if turned else (new_along, across + rise)
        shade = 1 - rng.uniform(0, 0.7) * (position * strength) ** 2
    if rng.random() < 0.5:
        cell_px = max(width, height) * rng.uniform(0.2, 0.6)
        depth_px = cell_px * rng.uniform(0.02, 0.1)
        x = x + (smooth_noise(rng, (width, height), (cell_px, cell_px)) - 0.5) * depth_px
        y = y + (smooth_noise(rng, (width, height), (cell_px, cell_px)) - 0.5) * depth_px
        shade = shade * (1 + (fractal_noise(rng, (width, height)) - 0.5) * rng.uniform(0, 0.6))
    x, y = x.astype(np.float32), y.astype(np.float32)
    picture = cv2.remap(surface.picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    lit = np.clip(picture * shade[..., None], 0, 255).astype(np.uint8)
    alpha = cv2.remap(surface.alpha, x, y, cv2.INTER_LINEAR)
    ids = cv2.remap(surface.ids, x, y, cv2.INTER_NEAREST)
    return Surface(lit, alpha, ids, surface.labels)  # type: ignore[arg-type]
