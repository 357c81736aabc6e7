"""An instances.json with what is odd in COCO, read and scored, against pycocotools on the same file."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detserve_core.datasets import open_dataset
from detserve_core.datasets.average_precision import AveragePrecision
from detserve_core.detections import Detections
from tests.core.datasets.test_datasets import picture, text

LABELS = ("dog", "cat")
BOXES = [
    {"image_id": 1, "category_id": 1, "bbox": [5, 5, 40, 40]},
    {"image_id": 1, "category_id": 1, "bbox": [50, 5, 0, 30]},
    {"image_id": 1, "category_id": 2, "bbox": [0, 0, 100, 80], "iscrowd": 1},
    {"image_id": 1, "category_id": 2, "bbox": [60, 40, 30, 30]},
    {"image_id": 2, "category_id": 2, "bbox": [10, 10, 0, 0]},
    {"image_id": 2, "category_id": 2, "bbox": [20, 10, 50, 50], "iscrowd": False},
]
FOUND = {
    1: [(0, 5, 5, 40, 40, 0.9), (1, 10, 10, 20, 20, 0.8), (1, 60, 40, 30, 28, 0.6), (0, 50, 5, 0, 30, 0.5)],
    2: [(1, 20, 10, 50, 50, 0.7), (0, 20, 10, 50, 50, 0.95), (1, 10, 10, 0, 0, 0.3)],
}


def written(folder: Path, first_id: int) -> Path:
    for name in ("1.jpg", "2.jpg"):
        picture(folder / name)
    content = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 100, "height": 80} for n in (1, 2)],
        "categories": [{"id": n, "name": name} for n, name in enumerate(LABELS, 1)],
        "annotations": [
            {"iscrowd": 0, "id": n, "area": box["bbox"][2] * box["bbox"][3], **box}
            for n, box in enumerate(BOXES, first_id)
        ],
    }
    return text(folder / "instances.json", json.dumps(content))


def ap_by_pycocotools(path: Path) -> float:
    rows = [
        {"image_id": image, "category_id": number + 1, "bbox": box, "score": score}
        for image, found in FOUND.items()
        for number, *box, score in found
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        evaluation = COCOeval(truth, truth.loadRes(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def ap_by_detserve(path: Path) -> float | None:
    dataset = open_dataset(path, None, LABELS)
    precision = AveragePrecision(LABELS, dataset.labels)
    for annotated in dataset.read():
        rows = np.array(FOUND[int(annotated.path.stem)], np.float32)
        boxes = np.column_stack([rows[:, 1:3], rows[:, 1:3] + rows[:, 3:5]])
        found = Detections(boxes, rows[:, 5], rows[:, 0].astype(np.int32), LABELS)
        precision.update(annotated, found)
    return precision.result()[0].ap


@pytest.mark.parametrize("first_id", [0, 1])
def test_crowds_boxes_without_width_and_the_id_0(tmp_path: Path, first_id: int) -> None:
    """pycocotools takes an annotation of id 0 for "not found"; it is counted here as any other."""
    expected = ap_by_pycocotools(written(tmp_path / "from one", 1))
    assert 0 < expected < 1
    assert ap_by_detserve(written(tmp_path / "set", first_id)) == pytest.approx(expected)


def test_pycocotools_loses_the_id_0(tmp_path: Path) -> None:
    lost = ap_by_pycocotools(written(tmp_path / "zero", 0))
    assert lost < ap_by_pycocotools(written(tmp_path / "one", 1))
