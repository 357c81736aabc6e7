"""FastestDet, built and served: equal to its author's pipeline in AP."""

from __future__ import annotations

import contextlib
import io
import json

import pytest
from pycocotools.coco import COCO

from detserve_client import Client
from tests.reference.coco import average_precision, rows
from tests.reference.fastestdet import FastestDetReference
from tests.shared_data import FASTESTDET, SINGLE, VAL64, needs_shared

pytestmark = needs_shared


def test_the_dog_is_found(server) -> None:
    with Client(server.grpc_url, "fastestdet") as client:
        found = client.detect(SINGLE / "dog.jpg", score_threshold=0.5)
    boxes, scores, classes = FastestDetReference(FASTESTDET)(
        SINGLE / "dog.jpg", score_threshold=0.5, iou_threshold=0.45
    )
    assert "dog" in [detection.label for detection in found]
    assert found.classes.tolist() == classes.tolist()
    assert found.scores.tolist() == pytest.approx(scores.tolist(), abs=0.005)
    assert found.boxes == pytest.approx(boxes, abs=2)


@pytest.mark.slow
def test_ap_equals_the_reference(server) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(VAL64 / "instances_val64.json"))
    by_name = {category["name"]: category["id"] for category in truth.dataset["categories"]}
    paths = {image["id"]: VAL64 / "images" / image["file_name"] for image in truth.dataset["images"]}
    reference = FastestDetReference(FASTESTDET)
    with Client(server.grpc_url, "fastestdet") as client:
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
    assert plain_ap > 0.15
    assert served_ap == pytest.approx(plain_ap, abs=0.002)
