"""YOLOv3 heads as they vary: number of maps, anchors per map, Scaled-YOLOv4's coordinates."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.errors import BuildError
from detserve_builder.infer_card import infer_card
from detserve_builder.preparation.prepare import prepare
from detserve_client import CardError
from tests.builder.families.test_decoders import assert_same_rows, run_original
from tests.builder.tiny_networks import SIDE_PX, pictures, save_linear_network

NUM_CLASSES = 3
VARIANTS: dict[str, dict[str, Any]] = {
    "one map": {"strides": [16], "anchors_wh_px": [[(9, 4), (14, 20), (30, 11)]]},
    "four maps": {
        "strides": [8, 16, 32, 64],
        "anchors_wh_px": [[(5, 7)], [(9, 9)], [(20, 14)], [(40, 50)]],
    },
    "anchors per map": {"strides": [8, 32], "anchors_wh_px": [[(5, 7)], [(50, 50), (40, 60)]]},
    "scale per map": {
        "strides": [8, 16],
        "anchors_wh_px": [[(5, 7), (9, 4)], [(14, 20), (30, 11)]],
        "scale_xy": [1.2, 1.05],
    },
    "new coordinates": {
        "strides": [8, 16],
        "anchors_wh_px": [[(5, 7), (9, 4)], [(14, 20), (30, 11)]],
        "scale_xy": 2.0,
        "new_coords": True,
    },
}


def formula(head: dict[str, Any], maps: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Darknet's get_yolo_box, one anchor and cell at a time."""

    def sigmoid(x):
        return x if head.get("new_coords") else 1 / (1 + np.exp(-x))

    boxes, scores = [], []
    scales = head.get("scale_xy", 1.0)
    for index, (stride, anchors) in enumerate(zip(head["strides"], head["anchors_wh_px"], strict=True)):
        scale = scales[index] if isinstance(scales, list) else scales
        side = SIDE_PX // stride
        values = maps[f"head_{stride}"].reshape(len(anchors), 5 + NUM_CLASSES, side, side)
        for anchor, y, x in np.ndindex(len(anchors), side, side):
            t = values[anchor, :, y, x]
            center = ((x, y) + sigmoid(t[:2]) * scale - (scale - 1) / 2) * stride
            growth = (2 * t[2:4]) ** 2 if head.get("new_coords") else np.exp(t[2:4])
            half = growth * anchors[anchor] / 2
            boxes.append((*(center - half), *(center + half)))
            scores.append(sigmoid(t[4]) * sigmoid(t[5:]))
    return np.array(boxes), np.array(scores)


def network(folder, head: dict[str, Any], seed: int):
    shapes = {
        f"head_{stride}": [len(anchors) * (5 + NUM_CLASSES), SIDE_PX // stride, SIDE_PX // stride]
        for stride, anchors in zip(head["strides"], head["anchors_wh_px"], strict=True)
    }
    return save_linear_network(folder / "net.onnx", shapes, seed=seed)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("batch", [1, 5])
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_prepared_graph_decodes_as_darknet_does(
    tmp_path_factory, variant: str, batch: int, seed: int
) -> None:
    head, folder = VARIANTS[variant], tmp_path_factory.mktemp("yolov3")
    path = network(folder, head, seed)
    said = {"family": "yolov3", "labels": ["a", "b", "c"], "head": head}
    (folder / "card.json").write_text(json.dumps(said))
    checkpoint = load_checkpoint(str(path))
    card = infer_card(checkpoint)
    prepared = prepare(checkpoint, card, pictures(2))
    assert prepared.batch_obstacle is None
    images = pictures(batch, seed=seed)
    session = ort.InferenceSession(prepared.model.SerializeToString(), providers=["CPUExecutionProvider"])
    boxes, scores, classes = session.run(["boxes", "scores", "classes"], {"images": images})
    for index, picture in enumerate(images):
        expected_boxes, expected = formula(head, run_original(path, card, picture))
        np.testing.assert_allclose(scores[index], -np.sort(-expected.max(1)), rtol=1e-4, atol=1e-5)
        assert_same_rows(
            (boxes[index], scores[index], classes[index]),
            (expected_boxes, expected.max(1), expected.argmax(1)),
        )


def test_one_map_is_recognised_where_three_anchors_fit(tmp_path) -> None:
    head = VARIANTS["one map"]
    checkpoint = load_checkpoint(str(network(tmp_path, head, 0)))
    (tmp_path / "said.json").write_text(json.dumps({"head": {"anchors_wh_px": head["anchors_wh_px"]}}))
    card = infer_card(checkpoint, said=tmp_path / "said.json")
    assert (card.family, len(card.labels), card.head["strides"]) == ("yolov3", NUM_CLASSES, [16])


def test_one_map_that_three_anchors_do_not_fit_is_not_taken(tmp_path) -> None:
    checkpoint = load_checkpoint(str(save_linear_network(tmp_path / "net.onnx", {"map": [85, 4, 4]})))
    with pytest.raises(BuildError, match="no known detector gives map"):
        infer_card(checkpoint)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ({"scale_xy": [1.1]}, "2 strides but 1 values of scale_xy"),
        ({"strides": [8, 8]}, r"strides are \[8, 8\], expected different ones"),
        ({"scale_xy": 0.5}, "head.scale_xy"),
    ],
)
def test_a_head_that_cannot_be(tmp_path, head, words) -> None:
    whole = {**VARIANTS["new coordinates"], **head}
    checkpoint = load_checkpoint(str(network(tmp_path, VARIANTS["new coordinates"], 0)))
    (tmp_path / "said.json").write_text(json.dumps({"labels": ["a", "b", "c"], "head": whole}))
    with pytest.raises(CardError, match=words):
        infer_card(checkpoint, said=tmp_path / "said.json")
