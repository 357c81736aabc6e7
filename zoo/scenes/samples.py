"""Write sample scenes (held-out seeds) with their true boxes: `python -m zoo.scenes.samples`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2

from zoo.scenes.dataset import HELD_OUT_SEED
from zoo.scenes.scene import Scene, make_scene
from zoo.scenes.symbols import LABELS

# Far behind the scenes that AP is measured on; picked by eye so that every class and one scene without codes
# is among them.
_CHOSEN = tuple(100_000 + number for number in (29, 3, 9, 42, 13, 41, 36, 39))
_LONG_PX = 960
_JPEG_QUALITY = 82


def _annotations(scene: Scene, image_id: int, first_id: int) -> list[dict[str, Any]]:
    rows = []
    for offset, (box, label) in enumerate(zip(scene.boxes_px, scene.classes, strict=True)):
        x1, y1, x2, y2 = (float(v) for v in box)
        rows.append(
            {
                "id": first_id + offset,
                "image_id": image_id,
                "category_id": int(label) + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
            }
        )
    return rows


def write_scenes(folder: Path, offsets: Sequence[int], long_px: int) -> None:
    """Write scene_1.jpg ... and instances.json (COCO, category ids from 1) into `folder`.

    `offsets` count from the first held-out seed; `long_px` is the longer side.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, offset in enumerate(offsets, start=1):
        scene = make_scene(HELD_OUT_SEED + offset, long_px)
        name = f"scene_{image_id}.jpg"
        bgr = cv2.cvtColor(scene.picture, cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / name), bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        height, width = scene.picture.shape[:2]
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        annotations += _annotations(scene, image_id, len(annotations) + 1)
    categories = [{"id": i, "name": label} for i, label in enumerate(LABELS, start=1)]
    text = json.dumps({"images": images, "annotations": annotations, "categories": categories}, indent=1)
    (folder / "instances.json").write_text(text + "\n")


def main() -> None:
    """Write the samples of the repository."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent.parent / "samples")
    write_scenes(parser.parse_args().folder, _CHOSEN, _LONG_PX)


if __name__ == "__main__":
    main()
