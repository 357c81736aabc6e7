"""Score a detector of this folder: `python -m zoo.scoring zoo/codes_ssd [--photographs FOLDER]`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo.average_precision import OVERLAPS, average_precision
from zoo.codes_yolo.evaluate import as_markdown
from zoo.photographs import as_markdown as photographs_as_markdown
from zoo.photographs import score_folder
from zoo.reference_detector import Detections
from zoo.scenes.dataset import HELD_OUT_SEED, SceneCache, scene_cache
from zoo.scenes.symbols import LABELS
from zoo.torchvision_reference import TorchvisionReference

_LEAST_SCORE = 0.01  # AP wants the weak detections too

Detector = Callable[[NDArray[np.uint8], float | None], Detections]


def score(detector: Detector, held_out: SceneCache, count: int | None = None) -> dict[str, dict[str, float]]:
    """AP (mean over IoU .50 to .95) and AP50 per class and over all, on the first `count` scenes."""
    scenes = [held_out.read(index) for index in range(min(count or len(held_out), len(held_out)))]
    found = [detector(np.ascontiguousarray(scene.picture), _LEAST_SCORE) for scene in scenes]
    table = average_precision(found, scenes, len(LABELS))
    result = {
        label: {"AP": float(table[i].mean()), "AP50": float(table[i, 0])} for i, label in enumerate(LABELS)
    }
    result["all"] = {"AP": float(np.nanmean(table)), "AP50": float(np.nanmean(table[:, OVERLAPS.index(0.5)]))}
    return result


def as_line(result: dict[str, dict[str, float]]) -> str:
    """The scores in one line, for the log of a training."""
    return "AP {AP:.3f} AP50 {AP50:.3f} ".format(**result["all"]) + " ".join(
        f"{label} {result[label]['AP50']:.3f}" for label in LABELS
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="with checkpoint.onnx and card.json")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/detserve/scenes")
    parser.add_argument("--held-out", type=int, default=600)
    parser.add_argument("--photographs", type=Path, help="folder of folders of photographs")
    parser.add_argument("--drawings", type=Path, help="where to draw the failures on them")
    options = parser.parse_args()
    detector = TorchvisionReference(options.folder)
    held_out = scene_cache(options.cache / "held_out", options.held_out, HELD_OUT_SEED)
    print(as_markdown(score(detector, held_out)), end="\n\n")
    if options.photographs:
        folders = sorted(path for path in options.photographs.iterdir() if path.is_dir())
        rows = [score_folder(folder, detector, options.drawings) for folder in folders]  # type: ignore[arg-type]
        print(photographs_as_markdown(rows))


if __name__ == "__main__":
    main()
