"""The figures that settings are judged by."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort

from detserve_builder.card_search.labelled import weighted_ap
from detserve_builder.card_search.mirrored import agreed_mass
from detserve_builder.card_search.networks import Networks
from detserve_builder.card_search.settings import setting_of
from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.infer_card import infer_card
from detserve_builder.preparation.prepare import prepare
from detserve_builder.steps.detserve_detector import OUTPUTS
from detserve_core.datasets.average_precision import AveragePrecision, ClassMatches
from detserve_core.datasets.dataset import plain_boxes
from detserve_core.detections import Detections
from tests.builder.tiny_networks import pictures, save_linear_network

LABELS = ("cat",)


def test_normalised_outside_the_graph_is_as_inside(tmp_path: Path) -> None:
    said = {"preprocess": {"color": "bgr", "scale": 0.5, "mean": [1, 2, 3], "std": [1, 2, 4]}}
    (tmp_path / "card.json").write_text(json.dumps(said))
    checkpoint = load_checkpoint(str(save_linear_network(tmp_path / "x.onnx", {"output": [84, 8]})))
    card = infer_card(checkpoint)
    inside = ort.InferenceSession(prepare(checkpoint, card, pictures(2)).model.SerializeToString())
    outside, same_card = Networks(checkpoint, card).opened(setting_of(card))
    assert same_card.preprocess == card.preprocess
    feed = {"images": pictures(1, seed=3)}
    for expected, got in zip(inside.run(OUTPUTS, feed), outside.run(OUTPUTS, feed), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def matched(seed: int) -> tuple[list[ClassMatches], float]:
    """Random pictures of one class, matched one by one, and pycocotools' AP of all."""
    rng = np.random.default_rng(seed)
    together, apart = AveragePrecision(LABELS, LABELS), []
    for _ in range(12):
        corner, size = rng.uniform(0, 200, (6, 2)), rng.uniform(20, 90, (6, 2))
        truth = plain_boxes(Path("x"), np.hstack([corner, size])[:4].tolist(), [0] * 4)
        corner, size = corner + rng.normal(0, 4, (6, 2)), size + rng.normal(0, 4, (6, 2))
        boxes = np.hstack([corner, corner + np.abs(size)]).astype(np.float32)
        found = Detections(boxes, rng.uniform(0, 1, 6).astype(np.float32), np.zeros(6, np.int32), LABELS)
        together.update(truth, found)
        alone = AveragePrecision(LABELS, LABELS)
        alone.update(truth, found)
        apart += alone.matches()
    return apart, together.result()[0].ap or 0.0


def test_weighted_ap_is_cocos_where_all_weigh_the_same() -> None:
    for seed in range(5):
        apart, expected = matched(seed)
        assert 0.05 < expected < 0.9
        np.testing.assert_allclose(weighted_ap(apart, np.ones((2, 12))), expected, atol=0.01)


def test_a_weight_is_as_many_pictures() -> None:
    apart, _ = matched(1)
    twice = weighted_ap([*apart, apart[3]], np.ones((1, 13)))
    weight = np.ones((1, 12))
    weight[0, 3] = 2
    np.testing.assert_allclose(weighted_ap(apart, weight), twice)


def rows(*found: tuple[list[float], float, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    boxes, scores, classes = zip(*found, strict=True) if found else ([], [], [])
    return (
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(classes, np.int32),
    )


def test_agreed_mass() -> None:
    one, half, far = [0.0, 0, 10, 10], [0.0, 0, 10, 8], [50.0, 50, 60, 60]
    assert agreed_mass(rows(), rows()) == 0
    np.testing.assert_allclose(agreed_mass(rows((one, 0.9, 1)), rows((one, 0.7, 1))), 0.7)
    np.testing.assert_allclose(agreed_mass(rows((one, 0.9, 1)), rows((half, 0.9, 1))), 0.9 * 0.8, rtol=1e-6)
    np.testing.assert_allclose(agreed_mass(rows((one, 0.9, 1)), rows((one, 0.7, 2))), -0.8, rtol=1e-6)
    np.testing.assert_allclose(agreed_mass(rows((one, 0.9, 1), (far, 0.4, 1)), rows((one, 0.9, 1))), 0.7)
