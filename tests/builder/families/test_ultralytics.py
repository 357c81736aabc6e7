"""Networks exported by Ultralytics, where a folder with them is at hand.

The files need no training. With ultralytics installed somewhere, make them by
``YOLO("yolov8n.yaml", task="detect").export(format="onnx", imgsz=320)``, with ``end2end=True`` for yolov10n
and yolo26n, and name their folder in the environment variable DETSERVE_ULTRALYTICS_EXPORTS.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from detserve_builder.build import probe_pictures
from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.infer_card import infer_card
from detserve_builder.preparation.prepare import prepare

FOLDER = Path(os.environ.get("DETSERVE_ULTRALYTICS_EXPORTS", "absent"))
FILES = {
    "yolov5n": "yolov8",  # Ultralytics' own YOLOv5 has YOLOv8's head
    "yolov8n": "yolov8",
    "yolo11n": "yolov8",
    "yolo12n": "yolov8",
    "yolov10n": "end_to_end",
    "yolo26n": "end_to_end",
    "rtdetr-l": "end_to_end",
}


def expected_rows(family: str, output: np.ndarray, card) -> np.ndarray:
    """Score, class and box of every anchor, best first, as Ultralytics reads its outputs."""
    if family == "yolov8":
        cx, cy, w, h = output[:4]
        scores, classes = output[4:].max(0), output[4:].argmax(0)
    else:
        cx, cy, w, h = output[:, :4].T
        scores, classes = output[:, 4], output[:, 5]
    boxes = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
    if card.head.get("boxes") == "xyxy_px":
        boxes = [cx, cy, w, h]
    elif card.head.get("boxes") == "cxcywh_share":
        boxes = [side * size for side, size in zip(boxes, [*card.input_wh, *card.input_wh], strict=True)]
    rows = np.column_stack([scores, classes, *boxes])
    return rows[np.argsort(-scores, kind="stable")][: card.candidates]


def export(name: str) -> Path:
    path = FOLDER / f"{name}.onnx"
    if not path.exists():
        pytest.skip("needs exports of Ultralytics; see the docstring of this file")
    return path


@pytest.mark.parametrize("name", FILES)
def test_an_export_is_read_and_batched(name: str) -> None:
    path = export(name)
    checkpoint = load_checkpoint(str(path))
    card = infer_card(checkpoint)
    assert (card.family, card.input_wh, len(card.labels)) == (FILES[name], (320, 320), 80)
    images = probe_pictures(card)
    prepared = prepare(checkpoint, card, images)
    assert prepared.batch_obstacle is None
    ours = ort.InferenceSession(prepared.model.SerializeToString(), providers=["CPUExecutionProvider"])
    theirs = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    boxes, scores, classes = ours.run(["boxes", "scores", "classes"], {"images": images})
    for index, image in enumerate(images):
        blob = np.ascontiguousarray((image.astype(np.float32) / 255).transpose(2, 0, 1)[None])
        expected = expected_rows(card.family, theirs.run(None, {"images": blob})[0][0], card)
        got = np.column_stack([scores[index], classes[index], boxes[index]])
        np.testing.assert_allclose(got[:, 0], expected[:, 0], rtol=1e-3, atol=1e-6)
        distance = (np.abs(got[:, None] - expected[None]) / (1 + np.abs(expected[None]))).max(-1)
        # An untrained network scores many anchors alike: the last of them may be others.
        assert np.quantile(distance.min(1), 0.9) < 2e-3


def save_raw_heads(path: Path, raw_path: Path) -> None:
    """Cut the export before its decoding; box and class maps are joined as the head does in training."""
    model = onnx.load(path)
    last = {
        node.name.split("/")[2]: node.output[0]
        for node in model.graph.node
        if node.op_type == "Conv" and node.name.split("/")[2].startswith(("cv2.", "cv3."))
    }
    del model.graph.output[:]
    for index, side in enumerate((40, 20, 10)):
        branches = [last[f"cv2.{index}"], last[f"cv3.{index}"]]
        model.graph.node.append(helper.make_node("Concat", branches, [f"raw_{index}"], axis=1))
        model.graph.output.append(
            helper.make_tensor_value_info(f"raw_{index}", TensorProto.FLOAT, [1, 144, side, side])
        )
    whole = raw_path.with_suffix(".whole.onnx")
    onnx.save(model, whole)
    onnx.utils.extract_model(str(whole), str(raw_path), ["images"], [f"raw_{index}" for index in range(3)])


@pytest.mark.parametrize("name", ["yolov8n", "yolo11n"])
def test_raw_heads_decode_to_what_the_export_decodes(tmp_path: Path, name: str) -> None:
    path = export(name)
    save_raw_heads(path, tmp_path / "raw.onnx")
    outputs = []
    for source in (path, tmp_path / "raw.onnx"):
        checkpoint = load_checkpoint(str(source))
        card = infer_card(checkpoint)
        assert card.family == "yolov8"
        images = probe_pictures(card)
        model = prepare(checkpoint, card.model_copy(update={"candidates": 2100}), images).model
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        outputs.append(session.run(["scores", "boxes"], {"images": images}))
    (scores, boxes), (raw_scores, raw_boxes) = outputs
    np.testing.assert_allclose(raw_scores, scores, rtol=1e-4, atol=1e-6)
    for decoded, raw in zip(boxes, raw_boxes, strict=True):
        distance = np.abs(decoded[:, None] - raw[None]).max(-1)
        assert distance.min(1).max() < 0.01
        assert distance.min(0).max() < 0.01
