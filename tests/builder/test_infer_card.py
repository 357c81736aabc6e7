"""Checkpoint and the user's words -> card, and the sentences for what does not fit."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.errors import BuildError
from detserve_builder.infer_card import infer_card
from detserve_builder.preparation.prepare import prepare
from detserve_client import CardError, DetserveError
from detserve_core.card import Resize
from tests.builder.tiny_networks import pictures, save_linear_network
from tests.shared_data import FASTESTDET, YOLOX, needs_shared

YOLOX_HEAD = {"output": [84, 8]}
YOLOV3_HEADS = {"fine": [24, 8, 8], "coarse": [24, 4, 4]}
ANCHORS = [[[5, 5]] * 3, [[20, 20]] * 3]


def test_yolox_is_read_off_the_graph(tmp_path) -> None:
    card = infer_card(load_checkpoint(str(save_linear_network(tmp_path / "x.onnx", YOLOX_HEAD))))
    assert (card.name, card.family, card.input_wh) == ("x", "yolox", (64, 64))
    assert card.preprocess.resize is Resize.LETTERBOX_TOPLEFT
    assert card.labels == ["class_0", "class_1", "class_2"]
    assert card.candidates == 84  # all the anchors there are
    assert len(card.origin.sha256) == 64


def test_what_the_user_says_wins_field_by_field(tmp_path) -> None:
    path = save_linear_network(tmp_path / "x.onnx", YOLOX_HEAD)
    (tmp_path / "card.json").write_text('{"labels": ["a", "b", "c"], "preprocess": {"color": "rgb"}}')
    card = infer_card(load_checkpoint(str(path)), name="mine")
    assert (card.name, card.labels) == ("mine", ["a", "b", "c"])
    assert card.preprocess.color.value == "rgb"
    assert card.preprocess.pad_value == 114


def test_what_the_user_says_goes_before_the_card_beside_the_checkpoint(tmp_path) -> None:
    (tmp_path / "said.json").write_text('{"thresholds": {"score": 0.4}}')
    beside = infer_card(load_checkpoint("codes_yolo"))
    card = infer_card(load_checkpoint("codes_yolo"), said=tmp_path / "said.json")
    assert card.thresholds.score == 0.4
    assert card == beside.model_copy(update={"thresholds": card.thresholds})


@pytest.mark.parametrize(
    ("heads", "said", "words"),
    [
        (YOLOX_HEAD, {"input_wh": [32, 32]}, "input_wh: got [32, 32], but the graph takes [64, 64]"),
        (YOLOX_HEAD, {"labels": ["a"]}, "labels: got 1, but the graph's output output has 3 classes"),
        (YOLOX_HEAD, {"family": "yolov3"}, "family: yolov3 expects outputs [N,B*(5+C),h,w]"),
        (YOLOX_HEAD, {"family": "ssd9"}, "family: got 'ssd9', expected one of yolox, yolov3"),
        (YOLOX_HEAD, {"head": {"strides": [8, 16]}}, "head.strides: [8, 16] gives 80 anchors"),
        (YOLOX_HEAD, {"head": {"stride": [8]}}, "head.stride: no such field; did you mean strides?"),
        (YOLOX_HEAD, {"candidates": 85}, "candidates: got 85, but the detector has 84 anchors"),
        (YOLOX_HEAD, {"preprocess": {"resize": "crop"}}, "preprocess.resize: input should be"),
        (YOLOX_HEAD, {"thresholds": {"score": 2}}, "thresholds.score: input should be less than"),
        (YOLOX_HEAD, {"origin": "ours"}, "origin: input should be"),
        (
            YOLOX_HEAD,
            {"preprocess": {"mean": [float("nan"), 0, 0]}},
            "preprocess.mean.0: input should be a finite",
        ),
        (YOLOX_HEAD, {"colour": "bgr"}, "colour: no such field; did you mean preprocess.color?"),
        (YOLOX_HEAD, {"name": "../up"}, "name: string should match pattern"),
        (YOLOX_HEAD, {"origin": {"sha256": "0" * 64}}, "origin.sha256: the card is of another file"),
        (YOLOV3_HEADS, {}, "head.anchors_wh_px: field required"),
        (YOLOV3_HEADS, {"head": {"anchors_wh_px": [[[1, 1]]]}}, "2 strides but 1 lists of anchors"),
        (YOLOV3_HEADS, {"head": {"anchors_wh_px": [[[1, 1]]] * 2}}, "need an output with 8 channels"),
    ],
)
def test_a_card_that_contradicts_the_graph_is_one_sentence_naming_the_field(
    tmp_path, heads, said, words
) -> None:
    checkpoint = load_checkpoint(str(save_linear_network(tmp_path / "net.onnx", heads)))
    (tmp_path / "said.json").write_text(json.dumps(said))
    with pytest.raises(CardError) as caught:
        prepare(checkpoint, infer_card(checkpoint, said=tmp_path / "said.json"), pictures(2))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("not json", "the card is not JSON"),
        ("[1]", "a JSON list, expected an object"),
        (None, "cannot be read"),
    ],
)
def test_a_card_that_is_no_card(tmp_path, text, words) -> None:
    checkpoint = load_checkpoint(str(save_linear_network(tmp_path / "net.onnx", YOLOX_HEAD)))
    said = tmp_path / "said.json"
    if text is not None:
        said.write_text(text)
    with pytest.raises(CardError, match=words):
        infer_card(checkpoint, said=said)


def classifier(path) -> None:
    node = helper.make_node("GlobalAveragePool", ["x"], ["y"])
    values = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 64, 64]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 1, 1]),
    ]
    graph = helper.make_graph([node], "classifier", [values[0]], [values[1]])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_an_onnx_that_is_no_detector(tmp_path) -> None:
    classifier(tmp_path / "c.onnx")
    with pytest.raises(
        BuildError, match=r"no known detector gives y FLOAT \[1,3,1,1\]; known are yolox, .* generic"
    ):
        infer_card(load_checkpoint(str(tmp_path / "c.onnx")))


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "no nodes"), (b"junk \xff\xfe" * 40, "not an ONNX file"), (None, "no such file")],
)
def test_a_checkpoint_that_is_no_onnx(tmp_path, content, words) -> None:
    path = tmp_path / "broken.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BuildError, match=words):
        load_checkpoint(str(path))


def test_weights_that_are_not_numbers(tmp_path) -> None:
    path = save_linear_network(tmp_path / "net.onnx", YOLOX_HEAD)
    model = onnx.load(path)
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == "project")
    values = numpy_helper.to_array(weights).copy()
    values[3, :2] = np.nan
    weights.CopyFrom(numpy_helper.from_array(values, "project"))
    onnx.save(model, path)
    with pytest.raises(BuildError, match=r"the weights project \[48, 8\] hold 2 NaN, expected numbers"):
        load_checkpoint(str(path))


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_truncated_onnx(tmp_path, share) -> None:
    whole = save_linear_network(tmp_path / "net.onnx", YOLOX_HEAD).read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DetserveError) as caught:
        load_checkpoint(str(tmp_path / "cut.onnx"))
    assert "\n" not in str(caught.value)


@needs_shared
def test_a_real_yolox_and_a_real_other() -> None:
    card = infer_card(load_checkpoint(str(YOLOX)))
    assert (card.family, card.input_wh, card.labels[16]) == ("yolox", (416, 416), "dog")
    card = infer_card(load_checkpoint(str(FASTESTDET)))
    assert (card.family, card.input_wh, card.labels[16]) == ("fastestdet", (352, 352), "dog")
