"""How a symbol gets onto paper: module size, ink, quiet zone, dots, text below the bars."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from zoo.scenes.symbols import Symbol
from zoo.scenes.textures import Field, Picture, as_bgr, blend_colours, contrasting_colour, random_colour


@dataclass
class Print:
    """A printed symbol with its quiet zone.

    `picture`: uint8 [h, w, 3]; `inside`: uint8 [h, w], 1 where the symbol itself lies (its true extent).
    """

    label: str
    picture: Picture
    inside: NDArray[np.uint8]


def _module_pattern(symbol: Symbol, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The matrix as it is printed: bars get a height, EAN guards reach down; uint8 [rows, columns]."""
    if not symbol.is_linear:
        return symbol.modules
    columns = symbol.modules.shape[1]
    height = max(4, int(columns * float(np.exp(rng.uniform(np.log(0.13), np.log(0.9))))))
    pattern = np.repeat(symbol.modules, height, axis=0)
    if symbol.guards and rng.random() < 0.8:
        lower = np.zeros((max(1, height // 12), columns), np.uint8)
        lower[:, list(symbol.guards)] = 1
        pattern = np.vstack([pattern, lower])
    return pattern


def _enlarge(pattern: NDArray[np.uint8], module_px: float, rng: np.random.Generator, dots: bool) -> Field:
    """Resample modules to `module_px` with soft edges; ink may gain or lose; float32 in [0, 1]."""
    rows, columns = pattern.shape
    size_px = max(1, round(columns * module_px)), max(1, round(rows * module_px))
    factor = int(np.clip(np.ceil(module_px * 1.5), 2, 8))
    if dots:
        y, x = np.mgrid[-1:1:8j, -1:1:8j]
        cell = (np.hypot(x, y) < rng.uniform(0.75, 1.1)).astype(np.float32)
    else:
        cell = np.ones((factor, factor), np.float32)
    field = np.kron(pattern.astype(np.float32), cell)
    if factor >= 4 and not dots and rng.random() < 0.3:
        kernel = np.ones((2, 2), np.uint8)
        field = cv2.dilate(field, kernel) if rng.random() < 0.6 else cv2.erode(field, kernel)
    return cv2.resize(field, size_px, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def _inks(rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw paper and ink: mostly dark on light, at times coloured, inverted or of low contrast."""
    kind = rng.choice(4, p=(0.62, 0.2, 0.1, 0.08))
    paper = np.full(3, rng.uniform(190, 255)) + rng.normal(0, 5, 3)
    ink = np.full(3, rng.uniform(0, 70)) + rng.normal(0, 6, 3)
    if kind == 1:
        paper = random_colour(rng)
        paper = paper if paper.mean() > 110 else 255 - paper
        ink = paper * rng.uniform(0.05, 0.4) if rng.random() < 0.5 else contrasting_colour(rng, paper, 90)
    elif kind == 2:
        paper, ink = ink, paper
    elif kind == 3:
        ink = paper - rng.uniform(45, 110)
    return np.clip(paper, 0, 255).astype(np.float32), np.clip(ink, 0, 255).astype(np.float32)


def _quiet_zone_px(symbol: Symbol, module_px: float, rng: np.random.Generator) -> tuple[int, int]:
    """Margins (x, y) in pixels; real prints often have less than the standard asks."""
    if symbol.is_linear:
        return round(module_px * rng.uniform(3, 14)), round(module_px * rng.uniform(0, 10))
    margin = module_px * rng.uniform(1, 6)
    return round(margin), round(margin)


def print_symbol(symbol: Symbol, rng: np.random.Generator, size_px: float) -> Print:
    """Print a symbol whose longer side measures about `size_px`."""
    pattern = _module_pattern(symbol, rng)
    module_px = size_px / max(pattern.shape)
    stretch_y = rng.uniform(0.8, 1.5) if symbol.label == "pdf417" else 1.0
    dots = symbol.label in ("qr", "datamatrix") and module_px >= 2 and rng.random() < 0.08
    field = _enlarge(pattern, module_px, rng, dots)
    if stretch_y != 1.0:
        field = cv2.resize(field, None, fx=1, fy=stretch_y, interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    across, along = _quiet_zone_px(symbol, module_px, rng)
    has_text = rng.random() < (0.75 if symbol.is_linear else 0.12)
    text_px = round(max(6.0, field.shape[1] * rng.uniform(0.06, 0.14))) if has_text else 0
    height, width = field.shape[0] + 2 * along + text_px, field.shape[1] + 2 * across
    canvas = np.zeros((height, width), np.float32)
    canvas[along : along + field.shape[0], across : across + field.shape[1]] = field
    inside = np.zeros((height, width), np.uint8)
    inside[along : along + field.shape[0], across : across + field.shape[1]] = 1
    paper, ink = _inks(rng)
    picture = blend_colours(canvas, paper, ink)
    if symbol.label == "qr" and rng.random() < 0.15:
        _stamp_logo(picture, (across, along, field.shape[1], field.shape[0]), rng)
    if has_text:
        _write_text(picture, symbol, (across, along + field.shape[0], field.shape[1], text_px), ink)
    return Print(symbol.label, picture, inside)


def _stamp_logo(picture: Picture, box_px: tuple[int, int, int, int], rng: np.random.Generator) -> None:
    """Put a logo over the middle of a symbol, as error correction allows."""
    x, y, width, height = box_px
    half_w, half_h = (max(1, int(side * rng.uniform(0.07, 0.17))) for side in (width, height))
    centre = x + width // 2, y + height // 2
    corners = (centre[0] - half_w, centre[1] - half_h), (centre[0] + half_w, centre[1] + half_h)
    if rng.random() < 0.6:  # most logos keep a clear rim around them
        cv2.rectangle(picture, *corners, as_bgr(picture[0, 0].astype(np.float32)), -1)
    for share in (0.85, 0.5, 0.3)[: int(rng.integers(1, 4))]:
        colour, axes = as_bgr(random_colour(rng)), (max(1, int(half_w * share)), max(1, int(half_h * share)))
        if rng.random() < 0.6:
            cv2.ellipse(picture, centre, axes, 0, 0, 360, colour, -1, cv2.LINE_AA)
        else:
            low = centre[0] - axes[0], centre[1] - axes[1]
            cv2.rectangle(picture, low, (centre[0] + axes[0], centre[1] + axes[1]), colour, -1)


def _write_text(
    picture: Picture, symbol: Symbol, box_px: tuple[int, int, int, int], ink: NDArray[np.float32]
) -> None:
    """Write the content under the bars, drawn over the width as printers do."""
    x, y, width, height = box_px
    text = "".join(character if " " < character < "\x7f" else " " for character in symbol.text)[:28]
    strip = np.zeros((24, 20 * len(text) + 8), np.uint8)
    cv2.putText(strip, text, (4, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.75, (255,), 2, cv2.LINE_AA)
    natural_px = min(width, int(strip.shape[1] * height / 24))
    small = (
        cv2.resize(strip, (max(1, natural_px), height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    )
    left = x + (width - small.shape[1]) // 2
    region = picture[y : y + height, left : left + small.shape[1]].astype(np.float32)
    mixed = region + small[: region.shape[0], :, None] * (np.array(as_bgr(ink), np.float32) - region)
    picture[y : y + height, left : left + small.shape[1]] = mixed.astype(np.uint8)
