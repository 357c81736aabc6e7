"""SSD-MobileNet and UltraFace, as decoded files and as raw heads: served equals the plain reference."""

from __future__ import annotations

import contextlib
import io
import json
import lzma

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from detserve_client import Client
from tests.reference.coco import average_precision, rows
from tests.reference.ssd import SsdReference
from tests.shared_data import SINGLE, VAL64, needs_shared
from tests.ssd_checkpoints import SSD, ULTRAFACE, coco_card

pytestmark = needs_shared


@pytest.mark.parametrize("name", ["ultraface", "ultraface_raw"])
def test_faces(server, tmp_path, name) -> None:
    picture = tmp_path / "bus.png"
    cv2.imwrite(str(picture), cv2.imread(str(SINGLE / "bus.jpg")))
    with Client(server.grpc_url, name) as client:
        found = client.detect(picture, score_threshold=0.5)
        of_jpeg = client.detect(SINGLE / "bus.jpg", score_threshold=0.5)
    np.testing.assert_array_equal(of_jpeg.boxes, found.boxes)
    np.testing.assert_array_equal(of_jpeg.scores, found.scores)
    assert found.scores.tolist() == pytest.approx([0.98, 0.94], abs=0.005)
    assert [detection.label for detection in found] == ["face", "face"]
    reference = SsdReference(ULTRAFACE, input_wh=(320, 240), mean=127, columns=[1])
    boxes, scores, _ = reference(picture, score_threshold=0.5, iou_threshold=0.45)
    np.testing.assert_allclose(found.boxes, boxes, atol=0.05)
    np.testing.assert_allclose(found.scores, scores, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ssd_mobilenet", "ssd_mobilenet_raw"])
def test_ap_equals_the_reference(server, tmp_path, name) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(VAL64 / "instances_val64.json"))
    paths = {image["id"]: VAL64 / "images" / image["file_name"] for image in truth.dataset["images"]}
    card = coco_card()
    columns = card["head"]["class_columns"]  # COCO's category ids
    checkpoint = tmp_path / "ssd.onnx"
    checkpoint.write_bytes(lzma.decompress((SSD / "ssd_mobilenet_v1_coco.onnx.xz").read_bytes()))
    reference = SsdReference(checkpoint, input_wh=(300, 300), mean=128, columns=columns)
    with Client(server.grpc_url, name) as client:
        assert client.card().labels == card["labels"]
        iou_threshold = client.card().thresholds.iou
        outcomes = list(client.detect_stream(paths.values(), score_threshold=0.001))
    served, plain = [], []
    for (image_id, path), outcome in zip(paths.items(), outcomes, strict=True):
        found = outcome.get()
        served += rows(image_id, found.boxes, found.scores, [columns[c] for c in found.classes])
        boxes, scores, classes = reference(path, score_threshold=0.001, iou_threshold=iou_threshold)
        plain += rows(image_id, boxes, scores, [int(c) for c in classes])
    served_ap, plain_ap = average_precision(truth, served), average_precision(truth, plain)
    print(json.dumps({"detector": name, "served": served_ap, "reference": plain_ap}))
    assert plain_ap > 0.2
    assert served_ap == pytest.approx(plain_ap, abs=0.002)
