"""The zoo's detectors of three families, served side by side: one client, one code, nothing else changes."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest
from pycocotools.coco import COCO

from detserve_client import Client
from tests.reference.coco import average_precision, rows

SAMPLES = Path(__file__).parents[2] / "zoo/samples"


@pytest.mark.parametrize("name", ["codes_yolo", "codes_ssd", "codes_rcnn"])
def test_finds_the_codes_of_the_samples(server, name: str) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(SAMPLES / "instances.json"))
    by_name = {category["name"]: category["id"] for category in truth.dataset["categories"]}
    results = []
    with Client(server.grpc_url, name) as client:
        labels = client.card().labels
        for image in truth.dataset["images"]:
            found = client.detect(SAMPLES / image["file_name"], score_threshold=0.05)
            categories = [by_name[labels[c]] for c in found.classes]
            results += rows(image["id"], found.boxes, found.scores, categories)
    assert average_precision(truth, results) > 0.5
