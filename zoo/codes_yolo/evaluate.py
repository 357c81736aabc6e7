"""Score an exported detector on held-out scenes: AP per class."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from zoo.average_precision import OVERLAPS, average_precision
from zoo.reference_detector import ReferenceDetector
from zoo.scenes.dataset import SceneCache
from zoo.scenes.symbols import LABELS

_LEAST_SCORE = 0.01  # AP wants the weak detections too


def evaluate(folder: Path, held_out: SceneCache, count: int | None = None) -> dict[str, dict[str, float]]:
    """AP (mean over IoU .50 to .95) and AP50 per class and over all, on the first `count` scenes."""
    detector = ReferenceDetector.from_folder(folder)
    scenes = [held_out.read(index) for index in range(min(count or len(held_out), len(held_out)))]
    found = [detector(np.ascontiguousarray(scene.picture), _LEAST_SCORE) for scene in scenes]
    table = average_precision(found, scenes, len(LABELS))
    result = {
        label: {"AP": float(table[i].mean()), "AP50": float(table[i, 0])} for i, label in enumerate(LABELS)
    }
    result["all"] = {"AP": float(np.nanmean(table)), "AP50": float(np.nanmean(table[:, OVERLAPS.index(0.5)]))}
    return result


def as_markdown(result: dict[str, dict[str, float]]) -> str:
    """The scores as a table."""
    rows = [f"| {name} | {row['AP']:.3f} | {row['AP50']:.3f} |" for name, row in result.items()]
    return "\n".join(["| class | AP | AP50 |", "|---|---:|---:|", *rows])
