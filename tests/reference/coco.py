"""Detections as COCO results, and their AP."""

from __future__ import annotations

import contextlib
import io

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def rows(image_id: int, boxes, scores, categories) -> list[dict]:
    return [
        {
            "image_id": image_id,
            "category_id": category,
            "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
            "score": float(score),
        }
        for (x1, y1, x2, y2), score, category in zip(boxes, scores, categories, strict=True)
    ]


def average_precision(truth: COCO, results: list[dict]) -> float:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])
