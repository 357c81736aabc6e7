"""The zoo's Faster R-CNN, built and served: equal to its untouched checkpoint, one picture after another."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from detserve_client import Client
from tests.reference.coco import average_precision, rows
from tests.reference.torchvision import TorchvisionReference

ZOO = Path(__file__).parents[2] / "zoo"
SAMPLES = ZOO / "samples"
NAME = "codes_rcnn"


@pytest.fixture(scope="module")
def reference() -> TorchvisionReference:
    return TorchvisionReference(ZOO / NAME / "checkpoint.onnx")


def test_many_pictures_through_a_detector_of_one_at_a_time(server, reference) -> None:
    paths = sorted(SAMPLES.glob("*.jpg")) * 3
    with Client(server.grpc_url, NAME) as client:
        outcomes = [outcome.get() for outcome in client.detect_stream(paths, score_threshold=0.3)]
    assert sum(len(found) for found in outcomes) > len(paths) / 2
    for path, found in zip(paths, outcomes, strict=True):
        boxes, scores, classes = reference(path, score_threshold=0.3)
        assert found.classes.tolist() == classes.tolist()
        np.testing.assert_allclose(found.scores, scores, atol=1e-4)
        np.testing.assert_allclose(found.boxes, boxes, atol=0.01)


def test_a_picture_with_nothing_on_it(server, tmp_path) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((50, 70, 3), 114, np.uint8))
    with Client(server.grpc_url, NAME) as client:
        assert len(client.detect(tmp_path / "grey.png")) == 0


def test_ap_equals_the_reference(server, reference) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(SAMPLES / "instances.json"))
    by_name = {category["name"]: category["id"] for category in truth.dataset["categories"]}
    paths = {image["id"]: SAMPLES / image["file_name"] for image in truth.dataset["images"]}
    served, plain = [], []
    with Client(server.grpc_url, NAME) as client:
        labels = client.card().labels
        outcomes = list(client.detect_stream(paths.values(), score_threshold=0.001))
    for (image_id, path), outcome in zip(paths.items(), outcomes, strict=True):
        found = outcome.get()
        served += rows(image_id, found.boxes, found.scores, [by_name[labels[c]] for c in found.classes])
        boxes, scores, classes = reference(path, score_threshold=0.001)
        plain += rows(image_id, boxes, scores, [by_name[labels[c]] for c in classes])
    served_ap, plain_ap = average_precision(truth, served), average_precision(truth, plain)
    print(json.dumps({"served": served_ap, "reference": plain_ap}))
    assert plain_ap > 0.5
    assert served_ap == pytest.approx(plain_ap, abs=0.002)
