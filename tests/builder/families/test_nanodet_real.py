"""NanoDet and PicoDet as published: told apart by the graph alone, with the AP of an independent pipeline."""

from __future__ import annotations

import contextlib
import io

import onnxruntime as ort
import pytest
from pycocotools.coco import COCO

from detserve_builder.build import probe_pictures
from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.coco_labels import COCO_LABELS
from detserve_builder.infer_card import read_card
from detserve_builder.precision.candidate_accuracy import average_precision, labelled_dataset
from detserve_builder.preparation.prepare import prepare
from detserve_core.card import Card
from tests.reference import coco
from tests.reference.nanodet import NanoDetReference
from tests.shared_data import SHARED, VAL64, needs_shared

pytestmark = needs_shared
TRAINED = SHARED / "models/todays/trained"
INSTANCES, PICTURES = VAL64 / "instances_val64.json", VAL64 / "images"


def reference_ap(reference: NanoDetReference, iou_threshold: float) -> float:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(INSTANCES))
    by_name = {category["name"]: category["id"] for category in truth.dataset["categories"]}
    found = []
    for image in truth.dataset["images"]:
        boxes, scores, classes = reference(
            PICTURES / image["file_name"], score_threshold=0.001, iou_threshold=iou_threshold
        )
        found += coco.rows(image["id"], boxes, scores, [by_name[COCO_LABELS[c]] for c in classes])
    return coco.average_precision(truth, found)


def own_ap(card: Card, session: ort.InferenceSession) -> float:
    return average_precision(session, card, labelled_dataset(INSTANCES, PICTURES, card))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "at_least"),
    [
        ("nanodet_m_320", {"strides": (8, 16, 32), "keep_ratio": True, "rgb": False}, 0.292),
        ("picodet_s_320_coco", {"strides": (8, 16, 32, 64), "keep_ratio": False, "rgb": True}, 0.325),
    ],
)
def test_ap_equals_the_reference(name, options, at_least) -> None:
    checkpoint = load_checkpoint(str(TRAINED / f"{name}.onnx"))
    read = read_card(checkpoint)
    assert {"preprocess.resize", "preprocess.color", "head.cell_offset"} <= set(read.guesses)
    prepared = prepare(checkpoint, read.card, probe_pictures(read.card))
    assert prepared.batch_obstacle is None
    session = ort.InferenceSession(prepared.model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = own_ap(read.card, session)
    reference = NanoDetReference(TRAINED / f"{name}.onnx", **options)
    assert found > at_least
    assert found == pytest.approx(reference_ap(reference, read.card.thresholds.iou), abs=0.002)
