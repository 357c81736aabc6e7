"""Published face detectors: read off the graph alone, they find what their authors' pipelines find."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
import pytest

from detserve_builder.build import probe_pictures
from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.infer_card import families_that_fit, infer_card
from detserve_builder.preparation.prepare import prepare
from detserve_builder.quantise.calibration import network_input
from detserve_builder.steps.detserve_postprocess import postprocess
from detserve_core.card import Card
from tests.reference import faces
from tests.shared_data import SHARED, SINGLE, VAL64, needs_shared

pytestmark = needs_shared
TRAINED = SHARED / "models/todays/trained"
YUNET, RETINAFACE = TRAINED / "yunet_n_640_640.onnx", TRAINED / "retinaface_mnet025.onnx"
BLAZEFACE = TRAINED / "blazeface_front_128.onnx"
BUS, LARGE = SINGLE / "bus.jpg", VAL64 / "images/000000008532.jpg"
CROWD = VAL64 / "images/000000006954.jpg"
REFERENCES: dict[Path, Callable[[Path], faces.FaceReference]] = {
    YUNET: faces.yunet,
    RETINAFACE: faces.retinaface,
    BLAZEFACE: faces.blazeface,
}


@cache
def prepared(path: Path) -> tuple[Card, ort.InferenceSession]:
    checkpoint = load_checkpoint(str(path))
    assert len(families_that_fit(checkpoint)) == 1
    card = infer_card(checkpoint)
    model = prepare(checkpoint, card, probe_pictures(card)).model
    return card, ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def found(path: Path, picture: np.ndarray, *, score: float) -> tuple[np.ndarray, np.ndarray]:
    """Boxes in pixels of the picture, and scores, through the step functions that are served."""
    card, session = prepared(path)
    image, geometry = network_input(cv2.imencode(".png", picture)[1].tobytes(), card)
    boxes, scores, classes = session.run(["boxes", "scores", "classes"], {"images": image[None]})
    num, boxes, scores, _ = postprocess(
        boxes[0],
        scores[0],
        classes[0],
        geometry,
        score_threshold=score,
        iou_threshold=card.thresholds.iou,
        max_detections=50,
        rows=50,
    )
    return boxes[: num[0]], scores[: num[0]]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    overlap = np.prod(np.clip(high - low, 0, None))
    return float(overlap / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - overlap))


@pytest.mark.parametrize(("path", "scores"), [(YUNET, [0.92, 0.90]), (RETINAFACE, [0.99, 0.98])])
def test_two_faces_before_the_bus(path, scores) -> None:
    assert found(path, cv2.imread(str(BUS)), score=0.5)[1].tolist() == pytest.approx(scores, abs=0.006)


@pytest.mark.parametrize(
    ("path", "picture", "faces_at_least"),
    [(YUNET, BUS, 2), (YUNET, CROWD, 4), (RETINAFACE, BUS, 2), (RETINAFACE, CROWD, 4), (BLAZEFACE, LARGE, 1)],
    ids=lambda value: value.stem if isinstance(value, Path) else str(value),
)
def test_as_the_authors_find_them(path, picture, faces_at_least) -> None:
    pixels = cv2.imread(str(picture))
    boxes, scores = found(path, pixels, score=0.5)
    reference = REFERENCES[path](path)
    expected, expected_scores = reference(
        pixels, score_threshold=0.5, iou_threshold=prepared(path)[0].thresholds.iou
    )
    assert len(boxes) == len(expected) >= faces_at_least
    np.testing.assert_allclose(scores, expected_scores, atol=0.005)
    assert min(iou(a, b) for a, b in zip(boxes, expected, strict=True)) >= 0.99
