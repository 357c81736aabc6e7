"""Yolo-Fastest from its .cfg and .weights, built and served: equal to OpenCV's reading of the same files."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO

from detserve_client import Client
from tests.reference.coco import average_precision, rows
from tests.reference.darknet import DarknetReference
from tests.shared_data import SINGLE, VAL64, YOLO_FASTEST, needs_shared

pytestmark = needs_shared


def test_dog_bicycle_and_car(server) -> None:
    picture = SINGLE / "dog.jpg"
    with Client(server.grpc_url, "yolo_fastest") as client:
        found = client.detect(picture, score_threshold=0.5)
    assert [detection.label for detection in found] == ["dog", "bicycle", "car"]
    assert found.scores.tolist() == pytest.approx([0.96, 0.89, 0.84], abs=0.006)
    boxes, scores, _ = DarknetReference(YOLO_FASTEST)(picture, score_threshold=0.5, iou_threshold=0.45)
    np.testing.assert_allclose(found.boxes, boxes, atol=2)
    np.testing.assert_allclose(found.scores, scores, atol=0.005)


@pytest.mark.slow
def test_ap_equals_the_reference(server) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(VAL64 / "instances_val64.json"))
    names = (VAL64 / "coco80.names").read_text().split("\n")
    by_name = {category["name"]: category["id"] for category in truth.dataset["categories"]}
    categories = [by_name[name] for name in names[:80]]
    paths = {image["id"]: VAL64 / "images" / image["file_name"] for image in truth.dataset["images"]}
    reference = DarknetReference(YOLO_FASTEST)
    with Client(server.grpc_url, "yolo_fastest") as client:
        iou_threshold = client.card().thresholds.iou
        outcomes = list(client.detect_stream(paths.values(), score_threshold=0.001))
    served, plain = [], []
    for (image_id, path), outcome in zip(paths.items(), outcomes, strict=True):
        found = outcome.get()
        served += rows(image_id, found.boxes, found.scores, [categories[c] for c in found.classes])
        boxes, scores, classes = reference(path, score_threshold=0.001, iou_threshold=iou_threshold)
        plain += rows(image_id, boxes, scores, [categories[c] for c in classes])
    served_ap, plain_ap = average_precision(truth, served), average_precision(truth, plain)
    print(json.dumps({"served": served_ap, "reference": plain_ap}))
    assert plain_ap > 0.2
    assert served_ap == pytest.approx(plain_ap, abs=0.002)
