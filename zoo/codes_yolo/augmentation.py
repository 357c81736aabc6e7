"""Turn cached scenes into training batches: turns, crops, mosaics, letterbox, colour."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from zoo.letterbox import PAD_VALUE, letterbox
from zoo.scenes.dataset import SceneCache
from zoo.scenes.scene import Scene


def turn(scene: Scene, rng: np.random.Generator) -> Scene:
    """Mirror and turn by multiples of 90 degrees."""
    picture, boxes = scene.picture, scene.boxes_px
    if rng.random() < 0.5:
        picture = picture[:, ::-1]
        boxes = np.stack(
            [picture.shape[1] - boxes[:, 2], boxes[:, 1], picture.shape[1] - boxes[:, 0], boxes[:, 3]], 1
        )
    for _ in range(int(rng.integers(4)) if rng.random() < 0.6 else 0):
        width = picture.shape[1]
        picture = np.rot90(picture)
        boxes = np.stack([boxes[:, 1], width - boxes[:, 2], boxes[:, 3], width - boxes[:, 0]], 1)
    return Scene(np.ascontiguousarray(picture), boxes, scene.classes)


def crop(scene: Scene, rng: np.random.Generator) -> Scene:
    """Cut out a part that shows every code wholly or not at all; the scene itself when none is found."""
    height, width = scene.picture.shape[:2]
    for _ in range(6):
        part_w, part_h = (int(side * rng.uniform(0.4, 1)) for side in (width, height))
        x, y = int(rng.integers(0, width - part_w + 1)), int(rng.integers(0, height - part_h + 1))
        boxes = scene.boxes_px - np.array([x, y, x, y], np.float32)
        clipped = np.clip(boxes, 0, np.array([part_w, part_h] * 2, np.float32))
        seen = np.prod(clipped[:, 2:] - clipped[:, :2], 1) / np.prod(boxes[:, 2:] - boxes[:, :2] + 1e-6, 1)
        if min(part_w, part_h) >= 32 and not np.any((seen > 0.02) & (seen < 0.97)):
            kept = seen >= 0.97
            return Scene(scene.picture[y : y + part_h, x : x + part_w], clipped[kept], scene.classes[kept])
    return scene


def _stretch(scene: Scene, rng: np.random.Generator) -> Scene:
    factor = float(np.exp(rng.normal(0, 0.12)))
    height, width = scene.picture.shape[:2]
    size_wh = max(16, int(width * factor)), height
    picture = cv2.resize(scene.picture, size_wh, interpolation=cv2.INTER_LINEAR)
    scale = np.array([size_wh[0] / width, 1, size_wh[0] / width, 1], np.float32)
    return Scene(picture, scene.boxes_px * scale, scene.classes)  # type: ignore[arg-type]


def _shrink(scene: Scene, rng: np.random.Generator) -> Scene:
    """Put the scene somewhere into a larger grey frame: small codes."""
    height, width = scene.picture.shape[:2]
    factor = rng.uniform(1.1, 2)
    frame = np.full((int(height * factor), int(width * factor), 3), PAD_VALUE, np.uint8)
    x, y = int(rng.integers(0, frame.shape[1] - width + 1)), int(rng.integers(0, frame.shape[0] - height + 1))
    frame[y : y + height, x : x + width] = scene.picture
    return Scene(frame, scene.boxes_px + np.array([x, y, x, y], np.float32), scene.classes)


def recolour(picture: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Brightness, contrast, channel order, grey, blur, grain."""
    values = np.arange(256, dtype=np.float32)
    gain, offset = np.exp(rng.normal(0, 0.2)), rng.normal(0, 18)
    table = np.clip((values - 127) * gain + 127 + offset, 0, 255).astype(np.uint8)
    if rng.random() < 0.05:
        table = 255 - table
    picture = cv2.LUT(picture, table)  # type: ignore[assignment]
    if rng.random() < 0.2:
        picture = np.ascontiguousarray(picture[..., rng.permutation(3)])
    if rng.random() < 0.2:
        picture = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)  # type: ignore[assignment]
    if rng.random() < 0.12:
        picture = cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.4, 2.2)))  # type: ignore[assignment]
    if rng.random() < 0.12:
        noise = np.empty(picture.shape, np.int16)
        cv2.randn(noise, np.zeros(1), np.full(1, rng.uniform(2, 16)))
        picture = np.clip(picture + noise, 0, 255).astype(np.uint8)
    return picture


class TrainingPictures(Dataset[tuple[NDArray[np.uint8], NDArray[np.float32]]]):
    """One item per scene: uint8 [S, S, 3] and float32 [n, 5] (class, cx, cy, w, h in pixels).

    An item's key is (index, side, seed), so that a sampler decides the size of each batch.
    """

    def __init__(self, cache: SceneCache) -> None:
        self.cache = cache

    def __len__(self) -> int:
        """Number of scenes, made or not."""
        return len(self.cache)

    def _varied(self, index: int, rng: np.random.Generator) -> Scene:
        scene = turn(self.cache.read(index), rng)
        if rng.random() < 0.35:
            scene = crop(scene, rng)
        if rng.random() < 0.3:
            scene = _stretch(scene, rng)
        # Before any grey frame is added: the padding of the product never changes its colour.
        scene = Scene(recolour(scene.picture, rng), scene.boxes_px, scene.classes)
        return _shrink(scene, rng) if rng.random() < 0.1 else scene

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Picture and boxes of a key."""
        index, side_px, seed = key
        cv2.setNumThreads(1)
        rng = np.random.default_rng((seed, index))
        if rng.random() < 0.12:
            picture, boxes, classes = self._mosaic(index, side_px, rng)
        else:
            scene = self._varied(index, rng)
            picture, factor, padding = letterbox(scene.picture, side_px)
            boxes, classes = scene.boxes_px * factor + np.array(padding * 2, np.float32), scene.classes
        centre_size = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)
        return picture, np.column_stack([classes, centre_size]).astype(np.float32)

    def _mosaic(
        self, index: int, side_px: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64]]:
        """Four scenes side by side."""
        half = side_px // 2
        square = np.empty((side_px, side_px, 3), np.uint8)
        boxes, classes = [], []
        for place in range(4):
            x, y = place % 2 * half, place // 2 * half
            scene = self._varied(index if place == 0 else int(rng.choice(self.cache.ready())), rng)
            picture, factor, padding = letterbox(scene.picture, half)
            square[y : y + half, x : x + half] = picture
            shift = np.array([padding[0] + x, padding[1] + y] * 2, np.float32)
            boxes.append(scene.boxes_px * factor + shift)
            classes.append(scene.classes)
        return square, np.concatenate(boxes), np.concatenate(classes)


def collate(items: list[tuple[NDArray[np.uint8], NDArray[np.float32]]]) -> tuple[Tensor, Tensor]:
    """Stack pictures to uint8 [n, S, S, 3]; boxes to float32 [m, 6] with the picture's index in front."""
    pictures = torch.from_numpy(np.stack([picture for picture, _ in items]))
    rows = [
        np.column_stack([np.full(len(boxes), i, np.float32), boxes]) for i, (_, boxes) in enumerate(items)
    ]
    return pictures, torch.from_numpy(np.concatenate(rows).astype(np.float32).reshape(-1, 6))
