"""YOLOX-nano, built and served: equal to its authors' pipeline, picture by picture and in AP."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO

from detserve_client import Client
from tests.reference.coco import average_precision, rows
from tests.reference.yolox import YoloxReference
from tests.shared_data import SINGLE, VAL64, YOLOX, needs_shared

pytestmark = needs_shared


def iou(a: np.ndarray, b: np.ndarray) -> float:
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    overlap = np.prod(np.clip(high - low, 0, None))
    return float(overlap / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - overlap))


def test_dog_bicycle_and_car(server) -> None:
    picture = SINGLE / "dog.jpg"
    with Client(server.grpc_url, "yolox") as client:
        found = client.detect(picture, score_threshold=0.5)
    assert [detection.label for detection in found] == ["dog", "bicycle", "car"]
    assert found.scores.tolist() == pytest.approx([0.86, 0.80, 0.80], abs=0.006)
    boxes, scores, _ = YoloxReference(YOLOX)(picture, score_threshold=0.5, iou_threshold=0.45)
    assert all(iou(box, expected) >= 0.95 for box, expected in zip(found.boxes, boxes, strict=True))
    np.testing.assert_allclose(found.scores, scores, atol=0.005)


@pytest.mark.slow
def test_ap_equals_the_reference(server) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(VAL64 / "instances_val64.json"))
    by_name = {category["name"]: category["id"] for category in truth.dataset["categories"]}
    paths = {image["id"]: VAL64 / "images" / image["file_name"] for image in truth.dataset["images"]}
    reference = YoloxReference(YOLOX)
    with Client(server.grpc_url, "yolox") as client:
        labels, iou_threshold = client.card().labels, client.card().thresholds.iou
        outcomes = list(client.detect_stream(paths.values(), score_threshold=0.001))
    served, plain = [], []
    for (image_id, path), outcome in zip(paths.items(), outcomes, strict=True):
        found = outcome.get()
        served += rows(image_id, found.boxes, found.scores, [by_name[labels[c]] for c in found.classes])
        boxes, scores, classes = reference(path, score_threshold=0.001, iou_threshold=iou_threshold)
        plain += rows(image_id, boxes, scores, [by_name[labels[c]] for c in classes])
    served_ap, plain_ap = average_precision(truth, served), average_precision(truth, plain)
    print(json.dumps({"served": served_ap, "reference": plain_ap}))
    assert plain_ap > 0.3
    assert served_ap == pytest.approx(plain_ap, abs=0.002)
