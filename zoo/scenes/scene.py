"""Compose one scene: background, carriers of codes in perspective, fingers, and the photograph of it all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from zoo.scenes.backgrounds import random_background
from zoo.scenes.camera import photograph
from zoo.scenes.printing import print_symbol
from zoo.scenes.surfaces import Surface, bend, random_surface
from zoo.scenes.symbols import LABELS, Symbol, random_label, random_symbol
from zoo.scenes.textures import Picture, as_bgr

_CODE_COUNT_SHARES = (0.18, 0.5, 0.18, 0.09, 0.05)
_ARTWORK_SHARE = 0.08
_ASPECTS = (4 / 3, 3 / 4, 1.0, 16 / 9, 9 / 16)
_DETECTOR_PX = 416  # sizes below are chosen so that a symbol can be told apart at this picture size
_LEAST_VISIBLE = 0.85  # a code of which less is seen is erased: its label would be a guess


@dataclass(frozen=True)
class Scene:
    """`picture`: uint8 [h, w, 3] RGB; `boxes_px`: float32 [n, 4] x1, y1, x2, y2; `classes`: int64 [n]."""

    picture: Picture
    boxes_px: NDArray[np.float32]
    classes: NDArray[np.int64]


class _Canvas:
    """The picture under construction, with the map of which symbol is seen in which pixel."""

    def __init__(self, picture: Picture) -> None:
        self.picture = picture
        self.ids = np.zeros(picture.shape[:2], np.uint8)
        self.labels: list[str] = []

    def put(self, surface: Surface, matrix: NDArray[np.float64]) -> bool:
        """Warp a surface into the picture; False (nothing done) when it would hide symbols laid before."""
        height, width = self.ids.shape
        alpha = cv2.warpPerspective(surface.alpha, matrix, (width, height), flags=cv2.INTER_LINEAR)
        if np.any((alpha > 30) & (self.ids > 0)):
            return False
        ids = cv2.warpPerspective(surface.ids, matrix, (width, height), flags=cv2.INTER_NEAREST)
        for number in range(1, len(surface.labels) + 1):
            full_area = _warped_area(surface.ids == number, matrix)
            if (ids == number).sum() < _LEAST_VISIBLE * full_area:
                _erase(surface, number)
                continue
            self.labels.append(surface.labels[number - 1])
            self.ids[ids == number] = len(self.labels)
        picture = cv2.warpPerspective(surface.picture, matrix, (width, height), flags=cv2.INTER_LINEAR)
        self.picture = _mix(self.picture, picture, alpha)
        return True

    def boxes(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Tight boxes of the symbols seen, and their classes."""
        boxes = np.zeros((len(self.labels), 4), np.float32)
        for index in range(len(self.labels)):
            x, y, width, height = cv2.boundingRect((self.ids == index + 1).astype(np.uint8))
            boxes[index] = x, y, x + width, y + height
        return boxes, np.array([LABELS.index(label) for label in self.labels], np.int64)


def _mix(below: NDArray[Any], above: NDArray[Any], alpha: NDArray[Any]) -> Picture:
    """Blend by `alpha` (0..255); only its soft edge needs arithmetic."""
    mixed = below.copy()
    mixed[alpha == 255] = above[alpha == 255]
    edge = (alpha > 0) & (alpha < 255)
    weight = alpha[edge][:, None].astype(np.float32) / 255
    mixed[edge] = (below[edge] * (1 - weight) + above[edge] * weight).astype(np.uint8)
    return mixed


def _warped_area(inside: NDArray[np.bool_], matrix: NDArray[np.float64]) -> float:
    """Area in the scene of a region of the surface, as if the picture had no edges."""
    contours, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return np.inf
    outline = max(contours, key=cv2.contourArea).astype(np.float32)
    return max(cv2.contourArea(cv2.perspectiveTransform(outline, matrix)), 1.0)


def _erase(surface: Surface, number: int) -> None:
    """Paint a symbol over with its mean colour."""
    inside = surface.ids == number
    if inside.any():
        grown = cv2.dilate(inside.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        surface.picture[grown] = surface.picture[inside].mean(0).astype(np.uint8)
        surface.ids[inside] = 0


def _angle(rng: np.random.Generator) -> float:
    kind = rng.choice(3, p=(0.5, 0.2, 0.3))
    if kind == 2:
        return float(rng.uniform(0, 2 * np.pi))
    return float(rng.normal(0, 0.1) + (kind == 1) * rng.integers(1, 4) * np.pi / 2)


def _pose(rng: np.random.Generator, surface: Surface, wh_px: tuple[int, int]) -> NDArray[np.float64]:
    """Draw turn, perspective and place: a 3 x 3 matrix from the surface to the scene."""
    height, width = surface.ids.shape
    source = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    angle = _angle(rng)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    depth = float(rng.choice([0.015, 0.05, 0.1]))
    scale = np.array([1.0, rng.uniform(0.7, 1.0)]) if rng.random() < 0.3 else np.ones(2)
    corners = (source - source.mean(0)) * scale
    corners = corners * (1 + rng.normal(0, depth, (4, 2))) @ turn.T
    matrix = cv2.getPerspectiveTransform(source, corners.astype(np.float32))
    # Place the symbols, not the carrier, inside the picture.
    points = np.argwhere(surface.ids > 0)[::7, ::-1].astype(np.float32)
    points = points if len(points) else source
    warped = cv2.perspectiveTransform(points[:, None], matrix)[:, 0]
    low, high = warped.min(0), warped.max(0)
    room = np.array(wh_px) - (high - low)
    place = rng.random(2) * room if rng.random() < 0.7 else room * np.clip(rng.normal(0.5, 0.12, 2), 0, 1)
    shift = np.eye(3)
    shift[:2, 2] = place - low
    return np.asarray(shift @ matrix, np.float64)


def _sized_symbol(rng: np.random.Generator, long_px: int, most: float) -> tuple[Symbol, float]:
    """Draw a symbol and its size in pixels: large enough that its modules do not melt into grey."""
    share = (
        rng.uniform(0.12, 0.97)
        if rng.random() < 0.6
        else float(np.exp(rng.uniform(np.log(0.06), np.log(0.4))))
    )
    share = min(share, most)
    label = random_label(rng)
    module_px = 0.55 if label in ("linear", "pdf417") else 0.8
    symbol = random_symbol(rng, label, share * _DETECTOR_PX / module_px)
    least = max(symbol.modules.shape) * module_px / _DETECTOR_PX
    return symbol, max(share, min(least, 0.95)) * long_px


def _fingers(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Draw thumbs and fingers that reach in from an edge, never over a symbol."""
    height, width = canvas.ids.shape
    skin = np.array((215, 165, 135)) * rng.uniform(0.35, 1.12) + rng.normal(0, 10, 3)
    for _ in range(int(rng.integers(1, 5))):
        edge = np.array([(0, rng.random()), (1, rng.random()), (rng.random(), 1)][int(rng.integers(3))])
        start = edge * (width, height)
        stop = start + (np.array((0.5, 0.5)) * (width, height) - start) * rng.uniform(0.2, 0.8)
        thick_px = int(max(width, height) * rng.uniform(0.05, 0.16))
        mask = np.zeros((height, width), np.uint8)
        cv2.line(mask, start.astype(int).tolist(), stop.astype(int).tolist(), (255,), thick_px, cv2.LINE_AA)
        if np.any((mask > 0) & (canvas.ids > 0)):
            continue
        rounded = np.clip(cv2.distanceTransform(mask, cv2.DIST_L2, 3) / thick_px * 2.5, 0, 1)[..., None]
        colour = np.array(as_bgr(skin.astype(np.float32))) * (0.55 + 0.45 * rounded)
        canvas.picture = _mix(canvas.picture, np.clip(colour, 0, 255).astype(np.uint8), mask)


def _lay_codes(canvas: _Canvas, rng: np.random.Generator, count: int) -> None:
    height, width = canvas.ids.shape
    most = 0.97 if count == 1 else 0.55
    symbols = [_sized_symbol(rng, max(width, height), most) for _ in range(count)]
    together = count > 1 and rng.random() < 0.5
    for group in [symbols] if together else [[symbol] for symbol in symbols]:
        surface = random_surface(rng, group)
        if rng.random() < 0.35:
            surface = bend(surface, rng)
        for _ in range(5):
            if canvas.put(surface, _pose(rng, surface, (width, height))):
                break


def _crop_to_code(scene: Scene, rng: np.random.Generator) -> Scene:
    """Cut the picture close around one code (scans, crops), unless that would cut another one."""
    height, width = scene.picture.shape[:2]
    chosen = scene.boxes_px[int(rng.integers(len(scene.boxes_px)))]
    margin_px = rng.uniform(0.01, 0.35, 4) * max(chosen[2:] - chosen[:2]) * rng.uniform(0.1, 1)
    left, top = np.maximum(chosen[:2] - margin_px[:2], 0).astype(int)
    right, bottom = np.minimum(chosen[2:] + margin_px[2:], (width, height)).astype(int)
    boxes = scene.boxes_px - np.array([left, top, left, top], np.float32)
    limits = np.array([right - left, bottom - top] * 2, np.float32)
    clipped = np.clip(boxes, 0, limits)
    seen = np.prod(clipped[:, 2:] - clipped[:, :2], 1) / np.prod(boxes[:, 2:] - boxes[:, :2], 1)
    if min(right - left, bottom - top) < 16 or np.any((seen > 0.02) & (seen < 0.95)):
        return scene
    kept = seen >= 0.95
    return Scene(scene.picture[top:bottom, left:right].copy(), clipped[kept], scene.classes[kept])


def _artwork(rng: np.random.Generator) -> Scene:
    """A code as it leaves a generator or a scanner: upright, alone on an even page, no camera in between."""
    long_px = int(rng.integers(90, 700))
    symbol, size_px = _sized_symbol(rng, long_px, 0.98)
    printed = print_symbol(symbol, rng, max(size_px, long_px * float(rng.uniform(0.5, 0.98))))
    margins = (rng.random(4) * rng.random() * rng.uniform(0, 0.35) * long_px).astype(int)
    widths = ((margins[0], margins[1]), (margins[2], margins[3]))
    picture = np.pad(printed.picture, (*widths, (0, 0)), mode="edge")
    x, y, width, height = cv2.boundingRect(np.pad(printed.inside, widths))
    box = np.array([[x, y, x + width, y + height]], np.float32)
    return Scene(picture, box, np.array([LABELS.index(symbol.label)], np.int64))


def make_scene(seed: int, long_px: int | None = None) -> Scene:
    """Make the scene of a seed; `long_px` fixes the longer side (else 400 to 900 px)."""
    rng = np.random.default_rng(seed)
    if long_px is None and rng.random() < _ARTWORK_SHARE:
        return _artwork(rng)
    fixed_px = long_px
    long_px = fixed_px or int(rng.integers(400, 900))
    aspect = float(rng.choice(_ASPECTS)) if rng.random() < 0.9 else float(np.exp(rng.uniform(-1.1, 1.1)))
    wh_px = max(48, int(long_px * min(1, aspect))), max(48, int(long_px * min(1, 1 / aspect)))
    count = int(rng.choice(len(_CODE_COUNT_SHARES), p=_CODE_COUNT_SHARES))
    # Scenes without codes carry more look-alikes: they are there to be mistaken.
    canvas = _Canvas(random_background(rng, wh_px, 3.5 if count == 0 else 1.2))
    if count:
        _lay_codes(canvas, rng, count)
    if rng.random() < 0.2:
        _fingers(canvas, rng)
    boxes_px, classes = canvas.boxes()
    scene = Scene(photograph(canvas.picture, rng), boxes_px, classes)
    if fixed_px is None and len(classes) and rng.random() < 0.18:
        scene = _crop_to_code(scene, rng)
    return scene
