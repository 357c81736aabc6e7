"""Decoding in the prepared graph equals the papers' formulas, written here a second time in numpy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.infer_card import infer_card
from detserve_builder.preparation.prepare import prepare
from tests.builder.tiny_networks import SIDE_PX, pictures, save_linear_network

NUM_CLASSES = 3


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def yolox_formula(heads: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    rows = heads["output"]
    boxes, start = [], 0
    for stride in (8, 16, 32):
        side = SIDE_PX // stride
        for index in range(side * side):
            cx, cy = (rows[start + index, :2] + (index % side, index // side)) * stride
            w, h = np.exp(rows[start + index, 2:4]) * stride
            boxes.append((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2))
        start += side * side
    return np.array(boxes), rows[:, 5:] * rows[:, 4:5]


ANCHORS = {8: [(5, 7), (9, 4)], 16: [(14, 20), (30, 11)], 32: [(50, 50), (40, 60)]}
SCALE_XY = 1.1


def yolov3_formula(heads: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    boxes, scores = [], []
    for stride, anchors in ANCHORS.items():
        side = SIDE_PX // stride
        maps = heads[f"head_{stride}"].reshape(len(anchors), 5 + NUM_CLASSES, side, side)
        for anchor, (anchor_w, anchor_h) in enumerate(anchors):
            for y in range(side):
                for x in range(side):
                    t = maps[anchor, :, y, x]
                    cx = (sigmoid(t[0]) * SCALE_XY - (SCALE_XY - 1) / 2 + x) * stride
                    cy = (sigmoid(t[1]) * SCALE_XY - (SCALE_XY - 1) / 2 + y) * stride
                    w, h = anchor_w * np.exp(t[2]), anchor_h * np.exp(t[3])
                    boxes.append((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2))
                    scores.append(sigmoid(t[4]) * sigmoid(t[5:]))
    return np.array(boxes), np.array(scores)


FAMILIES = {
    "yolox": (
        {"output": [84, 5 + NUM_CLASSES]},
        {"preprocess": {"color": "bgr", "scale": 0.5, "mean": [1, 2, 3], "std": [1, 2, 4]}},
        yolox_formula,
    ),
    "yolov3": (
        {f"head_{s}": [len(a) * (5 + NUM_CLASSES), SIDE_PX // s, SIDE_PX // s] for s, a in ANCHORS.items()},
        {
            "labels": ["a", "b", "c"],
            "head": {"anchors_wh_px": list(ANCHORS.values()), "scale_xy": SCALE_XY},
            "preprocess": {"mean": [0.1, 0.2, 0.3], "std": [0.2, 0.3, 0.4]},
        },
        yolov3_formula,
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch", [1, 5])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_prepared_graph_decodes_as_the_paper_says(
    tmp_path_factory, family: str, batch: int, seed: int
) -> None:
    heads, card_fields, formula = FAMILIES[family]
    folder = tmp_path_factory.mktemp(family)
    path = save_linear_network(folder / "net.onnx", heads, seed=seed)
    (folder / "card.json").write_text(json.dumps({"family": family, **card_fields}))
    checkpoint = load_checkpoint(str(path))
    card = infer_card(checkpoint)
    prepared = prepare(checkpoint, card, pictures(2))
    assert prepared.batch_obstacle is None

    images = pictures(batch, seed=seed)
    session = ort.InferenceSession(prepared.model.SerializeToString(), providers=["CPUExecutionProvider"])
    boxes, scores, classes = session.run(["boxes", "scores", "classes"], {"images": images})
    assert (boxes.dtype, scores.dtype, classes.dtype) == (np.float32, np.float32, np.int32)
    for index, picture in enumerate(images):
        expected_boxes, expected_scores = formula(run_original(path, card, picture))
        order = np.argsort(-expected_scores.max(1), kind="stable")
        np.testing.assert_allclose(scores[index], expected_scores.max(1)[order], rtol=1e-4, atol=1e-5)
        assert_same_rows(
            (boxes[index], scores[index], classes[index]),
            (expected_boxes, expected_scores.max(1), expected_scores.argmax(1)),
        )


def run_original(path: Path, card, picture: np.ndarray) -> dict[str, np.ndarray]:
    """The untouched network on one picture, normalised in numpy."""
    spec = card.preprocess
    pixels = picture[..., ::-1] if spec.color.value == "bgr" else picture
    normalised = (pixels * np.float32(spec.scale) - np.float32(spec.mean)) / np.float32(spec.std)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    feed = normalised.astype(np.float32).transpose(2, 0, 1)[None]
    return {name: value[0] for name, value in zip(names, session.run(names, {"images": feed}), strict=True)}


def assert_same_rows(got, expected) -> None:
    """Both sides hold the same anchors; equal scores may come in any order."""
    got_rows = np.column_stack([got[1], got[2], got[0]]).astype(np.float64)
    expected_rows = np.column_stack([expected[1], expected[2], expected[0]]).astype(np.float64)
    distance = np.abs(got_rows[:, None] - expected_rows[None]) / (1 + np.abs(expected_rows[None]))
    assert distance.max(-1).min(1).max() < 1e-3
    assert distance.max(-1).min(0).max() < 1e-3
