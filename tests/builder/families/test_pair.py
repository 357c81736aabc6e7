"""Decoded boxes and scores, as outputs or cut free of a suppression plugin."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.errors import BuildError
from detserve_builder.infer_card import families_that_fit, read_card
from detserve_builder.preparation.prepare import prepare
from tests.builder.families import pair_networks as networks
from tests.builder.families.harness import LIVELY, assert_decodes, assert_same_detections, save_network
from tests.builder.families.pair_networks import (
    ANCHORS,
    CLASSES,
    HEADS,
    boxes_of,
    formula,
    save_plugin,
    sigmoid,
)
from tests.builder.families.test_decoders import run_original
from tests.builder.families.test_opsets import assert_same_at_every_opset
from tests.builder.tiny_networks import SIDE_PX, pictures
from tests.shared_data import SHARED, needs_shared

EXPORTED = SHARED / "models/todays/exported"


@pytest.mark.parametrize("classes_first", [False, True])
@pytest.mark.parametrize("batch", [1, 5])
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_a_pair_is_read_as_it_is(tmp_path_factory, classes_first, batch, seed) -> None:
    assert_decodes(
        tmp_path_factory.mktemp("net"),
        HEADS,
        formula,
        family="pair",
        tail=networks.plain(classes_first=classes_first),
        batch=batch,
        seed=seed,
    )


@pytest.mark.parametrize("classes_first", [False, True])
def test_a_pair_at_every_opset(tmp_path, classes_first) -> None:
    path, _ = save_network(tmp_path, HEADS, networks.plain(classes_first=classes_first))
    assert_same_at_every_opset(path, {"preprocess": LIVELY})


EFFICIENT = {"box_coding": 0, "iou_threshold": 0.65, "score_threshold": 0.35, "max_output_boxes": 10}
BATCHED = {"isNormalized": 0, "iouThreshold": 0.5, "scoreThreshold": 0.1, "keepTopK": 10, "shareLocation": 1}
MMDEPLOY = {"is_normalized": 0, "iou_threshold": 0.6, "score_threshold": 0.05, "keep_topk": 200}
PLUGINS = {
    "EfficientNMS_TRT": ("EfficientNMS_TRT", {"background_class": -1, **EFFICIENT}, (0.35, 0.65, 10)),
    "no domain": ("EfficientNMS_TRT", {"domain": "", **EFFICIENT}, (0.35, 0.65, 10)),
    "BatchedNMS_TRT": ("BatchedNMS_TRT", {"backgroundLabelId": -1, **BATCHED}, (0.1, 0.5, 10)),
    "BatchedNMSDynamic_TRT": ("BatchedNMSDynamic_TRT", BATCHED, (0.1, 0.5, 10)),
    "TRTBatchedNMS": ("TRTBatchedNMS", {"domain": "mmdeploy", **MMDEPLOY}, (0.05, 0.6, 200)),
}


def read(path, **fields):
    (path.parent / "said.json").write_text(json.dumps({"preprocess": LIVELY, **fields}))
    return read_card(load_checkpoint(str(path)), said=path.parent / "said.json")


def found_by(path, card, image):
    result = prepare(load_checkpoint(str(path)), card, pictures(2))
    assert result.batch_obstacle is None
    session = ort.InferenceSession(result.model.SerializeToString(), providers=["CPUExecutionProvider"])
    return tuple(v[0] for v in session.run(["boxes", "scores", "classes"], {"images": image[None]}))


@pytest.mark.parametrize("case", PLUGINS)
def test_a_plugin_is_cut_off_and_its_thresholds_are_the_cards(tmp_path, case) -> None:
    operator, attributes, (score, iou, most) = PLUGINS[case]
    path, base = save_plugin(tmp_path, operator, networks.decoded(), **attributes)
    assert [family.name for family, _ in families_that_fit(load_checkpoint(str(path)))] == ["pair"]
    card = read(path).card
    said = card.thresholds
    assert (said.score, said.iou, said.max_detections) == (score, iou, most)
    assert (card.head["units"], card.head["coding"], len(card.labels)) == ("pixels", "xyxy", CLASSES)
    image = pictures(1)[0]
    boxes, scores = formula(run_original(base, card, image))
    assert_same_detections(found_by(path, card, image), (boxes, scores.max(1), scores))


def test_what_the_attributes_say_is_done(tmp_path) -> None:
    """Centre and size, raw scores and a background in column 1; shares where the plugin says so."""
    attributes = {"box_coding": 1, "score_activation": 1, "background_class": 1, "class_agnostic": 1}
    path, base = save_plugin(
        tmp_path, "EfficientNMS_TRT", networks.decoded(activated=False), **{**EFFICIENT, **attributes}
    )
    inferred = read(path)
    card = inferred.card
    assert (card.head["background"], len(card.labels)) == (1, 2)
    assert "across classes" in inferred.guesses["thresholds.iou"]
    image = pictures(1)[0]
    heads = run_original(base, card, image)
    low, high = np.split(boxes_of(heads["raw_boxes"]), 2, axis=1)
    boxes = np.concatenate([low - high / 2, low + high / 2], 1)
    scores = sigmoid(heads["raw_scores"])[:, [0, 2]]
    assert_same_detections(found_by(path, card, image), (boxes, scores.max(1), scores))


def test_shares_where_the_plugin_says_so(tmp_path) -> None:
    path, base = save_plugin(tmp_path, "BatchedNMS_TRT", networks.decoded(), **{**BATCHED, "isNormalized": 1})
    card = read(path).card
    assert card.head["units"] == "normalised"
    image = pictures(1)[0]
    boxes, scores = formula(run_original(base, card, image))
    assert_same_detections(found_by(path, card, image), (boxes * SIDE_PX, scores.max(1), scores))


@pytest.mark.parametrize("of_each", [1, CLASSES])
def test_boxes_of_four_dimensions(tmp_path, of_each) -> None:
    """One box for all classes, or one of each."""
    heads = {**HEADS, "raw_boxes": [ANCHORS, of_each, 4]}
    tail = networks.decoded(of=4)
    path, base = save_plugin(tmp_path, "BatchedNMSDynamic_TRT", tail, heads=heads, **BATCHED)
    card = read(path, candidates=ANCHORS).card
    image = pictures(1)[0]
    raw = run_original(base, card, image)
    boxes, scores = boxes_of(raw["raw_boxes"]), sigmoid(raw["raw_scores"])
    got = found_by(path, card, image)
    if of_each == 1:
        assert_same_detections(got, (boxes[:, 0], scores.max(1), scores))
        return
    best = np.argsort(-scores.ravel())[:ANCHORS]
    np.testing.assert_allclose(got[1], scores.ravel()[best], rtol=1e-4)
    np.testing.assert_allclose(got[0], boxes.reshape(-1, 4)[best], rtol=1e-3, atol=1e-2)
    assert got[2].tolist() == (best % CLASSES).tolist()


def test_what_a_plugin_does_beyond_suppression_is_refused(tmp_path) -> None:
    tail = networks.decoded()
    path, _ = save_plugin(
        tmp_path, "EfficientNMS_TRT", tail, inputs=("boxes", "scores", "boxes"), **EFFICIENT
    )
    with pytest.raises(BuildError, match=r"EfficientNMS_TRT has 3 inputs, .* without anchors .*--end2end"):
        load_checkpoint(str(path))
    tail = networks.decoded()
    tail.output(tail.node("ReduceMax", ["det_scores"], "best", keepdims=0), [])
    path, _ = save_plugin(tmp_path, "EfficientNMS_TRT", tail, **EFFICIENT)
    with pytest.raises(BuildError, match=r"EfficientNMS_TRT is not the graph's end"):
        load_checkpoint(str(path))


@needs_shared
@pytest.mark.parametrize(
    ("name", "coding"),
    [("hand_EfficientNMS_TRT", "cxcywh"), ("hand_BatchedNMSDynamic_TRT", "cxcywh"), ("hand_yolonas", "xyxy")],
)
def test_files_as_exporters_write_them(name, coding) -> None:
    """Their boxes are those of an untrained network: a guess is made, and said to be one."""
    inferred = read_card(load_checkpoint(str(EXPORTED / f"{name}.onnx")))
    card = inferred.card
    assert "head.units" in inferred.guesses
    assert (card.family, card.head["coding"], card.head["units"], len(card.labels)) == (
        "pair",
        coding,
        "normalised",
        3,
    )
