"""A cache of scenes on disk: made once, in parallel, from seeds; read as memory-mapped arrays."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from zoo.scenes.scene import Scene, make_scene

SIDE_PX = 448
"""Longer side of a cached scene; the cache keeps it in the top left corner of a square."""

TRAINING_SEED = 0
HELD_OUT_SEED = 900_000_000
"""Scenes from this seed on are never trained on."""

MOST_BOXES = 8
GENERATOR_VERSION = 1
"""Raise it when the generator changes: old caches are then made anew."""

_CHUNK = 50


@dataclass(frozen=True)
class SceneCache:
    """Memory-mapped arrays.

    `pictures`: uint8 [n, SIDE_PX, SIDE_PX, 3]; `sizes_wh`: int32 [n, 2]; `targets`: float32
    [n, MOST_BOXES, 5]. A target is class, x1, y1, x2, y2 in pixels; class -1 fills up.
    """

    pictures: NDArray[np.uint8]
    sizes_wh: NDArray[np.int32]
    targets: NDArray[np.float32]

    def __len__(self) -> int:
        """Number of scenes, made or not."""
        return len(self.pictures)

    def ready(self) -> NDArray[np.int64]:
        """Indices of the scenes made so far."""
        widths = np.array(self.sizes_wh[:, 0])  # a copy: the generator may write meanwhile
        return np.nonzero(widths)[0]

    def read(self, index: int) -> Scene:
        """One scene of the cache (the picture is a view)."""
        width, height = self.sizes_wh[index]
        target = self.targets[index]
        target = target[target[:, 0] >= 0]
        return Scene(
            self.pictures[index, :height, :width], target[:, 1:].copy(), target[:, 0].astype(np.int64)
        )


def resize_scene(scene: Scene, long_px: int) -> Scene:
    """Bring the longer side to `long_px` with the product's plain bilinear resize."""
    height, width = scene.picture.shape[:2]
    factor = long_px / max(width, height)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    picture = cv2.resize(scene.picture, size, interpolation=cv2.INTER_LINEAR)
    scale = np.array([size[0] / width, size[1] / height] * 2, np.float32)
    return Scene(picture, scene.boxes_px * scale, scene.classes)  # type: ignore[arg-type]


def _open(
    folder: Path, count: int, mode: str
) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.float32]]:
    return (
        np.memmap(folder / "pictures.u8", np.uint8, mode, shape=(count, SIDE_PX, SIDE_PX, 3)),  # type: ignore[call-overload]
        np.memmap(folder / "sizes.i32", np.int32, mode, shape=(count, 2)),  # type: ignore[call-overload]
        np.memmap(folder / "targets.f32", np.float32, mode, shape=(count, MOST_BOXES, 5)),  # type: ignore[call-overload]
    )


def _fill(folder: Path, count: int, first_seed: int, start: int, stop: int) -> None:
    """Make the missing ones of the scenes start..stop (runs in a worker process)."""
    cv2.setNumThreads(1)
    pictures, sizes_wh, targets = _open(folder, count, "r+")
    for index in range(start, stop):
        if sizes_wh[index, 0]:
            continue
        scene = resize_scene(make_scene(first_seed + index), SIDE_PX)
        height, width = scene.picture.shape[:2]
        pictures[index, :height, :width] = scene.picture
        targets[index, :, 0] = -1
        for row, (label, box) in enumerate(zip(scene.classes[:MOST_BOXES], scene.boxes_px, strict=False)):
            targets[index, row] = label, *box
        sizes_wh[index] = width, height  # written last: it says that the scene is whole


def _prepare(folder: Path, count: int, first_seed: int) -> None:
    """Create the files, unless those of the same kind are there (then what is missing is made)."""
    wanted = {"version": GENERATOR_VERSION, "count": count, "first_seed": first_seed, "side_px": SIDE_PX}
    note = folder / "cache.json"
    if not note.exists() or json.loads(note.read_text()) != wanted:
        folder.mkdir(parents=True, exist_ok=True)
        _open(folder, count, "w+")
        note.write_text(json.dumps(wanted))


def _complain(job: Future[None]) -> None:
    if not job.cancelled() and job.exception():
        print(f"making scenes failed: {job.exception()!r}", flush=True)


def scene_cache(folder: Path, count: int, first_seed: int, enough: int | None = None) -> SceneCache:
    """Open the cache in `folder` and make what it lacks.

    Returns once `enough` scenes are there (all of them by default); the others are made meanwhile, in
    processes that end with this one.
    """
    _prepare(folder, count, first_seed)
    cache = SceneCache(*_open(folder, count, "r"))
    missing = sorted({int(index) // _CHUNK * _CHUNK for index in np.nonzero(cache.sizes_wh[:, 0] == 0)[0]})
    if not missing:
        return cache
    # Scenes stand back behind the training that may run meanwhile.
    pool = ProcessPoolExecutor(os.cpu_count() or 1, initializer=os.nice, initargs=(3,))
    for start in missing:
        job = pool.submit(_fill, folder, count, first_seed, start, min(start + _CHUNK, count))
        job.add_done_callback(_complain)
    pool.shutdown(wait=False)
    with Progress() as progress:
        bar = progress.add_task(f"scenes in {folder.name}", total=enough or count)
        while (ready := len(cache.ready())) < (enough or count):
            progress.update(bar, completed=ready)
            time.sleep(0.5)
        progress.update(bar, completed=ready)
    return cache
