"""DETR's logits and boxes, and RT-DETR's own export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from detserve_builder.card_sources import InferredCard, Source
from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.errors import BuildError
from detserve_builder.infer_card import infer_card, read_card
from detserve_builder.preparation.prepare import prepare
from detserve_client import CardError
from tests.builder.families.harness import Tail, assert_decodes, save_network
from tests.builder.families.test_decoders import sigmoid
from tests.builder.tiny_networks import SIDE_PX, pictures

QUERIES, NUM_CLASSES = 30, 3


def boxes_of(heads):
    cx, cy, w, h = sigmoid(heads["boxes_raw"]).T * SIDE_PX
    return np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 1)


def softmax_formula(heads):
    exponentials = np.exp(heads["logits"] - heads["logits"].max(1, keepdims=True))
    return boxes_of(heads), (exponentials / exponentials.sum(1, keepdims=True))[:, :-1]


def all_pairs(boxes, scores):
    """Each query once for every class."""
    queries, classes = (flat.ravel() for flat in np.indices(scores.shape))
    return boxes[queries], scores.ravel(), classes


def sigmoid_formula(heads):
    return all_pairs(boxes_of(heads), sigmoid(heads["logits"]))


def published_head(columns) -> Tail:
    tail = Tail()
    tail.output("logits", [QUERIES, columns])
    tail.output(tail.node("Sigmoid", ["boxes_raw"], "pred_boxes"), [QUERIES, 4])
    return tail


@pytest.mark.parametrize(
    ("scores", "formula", "columns"),
    [("softmax", softmax_formula, NUM_CLASSES + 1), ("sigmoid", sigmoid_formula, NUM_CLASSES)],
)
@pytest.mark.parametrize("batch", [1, 5])
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_logits_and_boxes(tmp_path_factory, scores, formula, columns, batch, seed) -> None:
    assert_decodes(
        tmp_path_factory.mktemp("net"),
        {"logits": [QUERIES, columns], "boxes_raw": [QUERIES, 4]},
        formula,
        family="detr",
        card={"head": {"scores": scores}, "labels": ["a", "b", "c"]},
        batch=batch,
        seed=seed,
        tail=published_head(columns),
    )


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_columns_without_a_label_never_come_out(tmp_path_factory, seed) -> None:
    def formula(heads):
        boxes, scores = softmax_formula(heads)
        return boxes, scores[:, [3, 1]]

    assert_decodes(
        tmp_path_factory.mktemp("net"),
        {"logits": [QUERIES, 6], "boxes_raw": [QUERIES, 4]},
        formula,
        family="detr",
        card={"head": {"scores": "softmax", "class_columns": [3, 1]}, "labels": ["d", "b"]},
        batch=3,
        seed=seed,
        tail=published_head(6),
    )


def decoded_export() -> Tail:
    tail = Tail()
    tail.input("orig_target_sizes", [1, 2], TensorProto.INT64)
    tail.node("Tile", ["orig_target_sizes", tail.constant("repeats", [1, 2])], "sizes")
    tail.node("Unsqueeze", ["sizes", tail.constant("at", [1])], "sizes_of_all")
    tail.node("Cast", ["sizes_of_all"], "sizes_float", to=TensorProto.FLOAT)
    tail.node("Cast", ["labels_raw"], "labels", to=TensorProto.INT64)
    tail.node("Mul", ["boxes_raw", "sizes_float"], "boxes")
    tail.output("labels", [QUERIES], TensorProto.INT64)
    tail.output("boxes", [QUERIES, 4])
    tail.output("scores", [QUERIES])
    return tail


@pytest.mark.parametrize("batch", [1, 5])
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_labels_boxes_and_scores(tmp_path_factory, batch, seed) -> None:
    assert_decodes(
        tmp_path_factory.mktemp("net"),
        {"labels_raw": [QUERIES], "boxes_raw": [QUERIES, 4], "scores": [QUERIES]},
        lambda heads: (heads["boxes_raw"] * SIDE_PX, heads["scores"], np.trunc(heads["labels_raw"])),
        family="detr",
        card={"labels": ["a", "b", "c"]},
        batch=batch,
        seed=seed,
        tail=decoded_export(),
    )


def test_ranked_scores_are_not_ranked_again(tmp_path) -> None:
    heads = {"labels_raw": [QUERIES], "boxes_raw": [QUERIES, 4], "scores": [QUERIES]}
    network, _ = save_network(tmp_path, heads, decoded_export())
    said = card_file(tmp_path, head={"scores": "sigmoid"}, labels=["a", "b", "c"])
    checkpoint = load_checkpoint(str(network))
    with pytest.raises(CardError, match="scores is ranked already; expected decoded"):
        prepare(checkpoint, infer_card(checkpoint, said=said), pictures(2))


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_of_many_pairs_the_best_are_candidates(tmp_path_factory, seed) -> None:
    def formula(heads):
        boxes, scores, classes = sigmoid_formula(heads)
        best = np.argsort(-scores)[:10]
        return boxes[best], scores[best], classes[best]

    assert_decodes(
        tmp_path_factory.mktemp("net"),
        {"logits": [QUERIES, NUM_CLASSES], "boxes_raw": [QUERIES, 4]},
        formula,
        family="detr",
        card={"head": {"scores": "sigmoid"}, "labels": ["a", "b", "c"], "candidates": 10},
        batch=3,
        seed=seed,
        tail=published_head(NUM_CLASSES),
    )


@pytest.mark.parametrize(
    ("op", "scores", "formula", "columns"),
    [("Softmax", "softmax", softmax_formula, 4), ("Sigmoid", "sigmoid", sigmoid_formula, 3)],
)
def test_what_the_graph_does_is_not_done_twice(tmp_path, op, scores, formula, columns) -> None:
    tail = published_head(columns)
    tail.node(op, ["logits"], "pred_scores", **({"axis": 2} if op == "Softmax" else {}))
    tail.outputs[0].name = "pred_scores"
    assert_decodes(
        tmp_path,
        {"logits": [QUERIES, columns], "boxes_raw": [QUERIES, 4]},
        formula,
        family="detr",
        card={"labels": ["a", "b", "c"]},
        batch=2,
        seed=5,
        tail=tail,
    )
    assert read(tmp_path / "net.onnx", labels=["a", "b", "c"]).card.head["scores"] == scores


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_rf_detr_has_a_column_more_than_classes(tmp_path_factory, seed) -> None:
    def formula(heads):
        return all_pairs(boxes_of(heads), sigmoid(heads["labels"])[:, :-1])

    assert_decodes(
        tmp_path_factory.mktemp("net"),
        {"labels": [QUERIES, 4], "boxes_raw": [QUERIES, 4]},
        formula,
        family="detr",
        card={"head": {"scores": "sigmoid"}},
        batch=2,
        seed=seed,
        tail=rf_detr(4),
    )


def rf_detr(columns: int, *beside: str) -> Tail:
    tail = Tail()
    tail.output(tail.node("Sigmoid", ["boxes_raw"], "dets"), [QUERIES, 4])
    tail.output("labels", [QUERIES, columns])
    for name in beside:
        tail.output(tail.node("Identity", ["labels"], name), [QUERIES, columns])
    return tail


def card_file(folder: Path, **fields: Any) -> Path:
    path = folder / "said.json"
    path.write_text(json.dumps(fields))
    return path


def read(network: Path, **said: Any) -> InferredCard:
    return read_card(load_checkpoint(str(network)), said=card_file(network.parent, **said))


def hugging_face(folder: Path, columns: int, config: dict[str, Any], processor: dict[str, Any]) -> Path:
    heads = {"logits": [QUERIES, columns], "boxes_raw": [QUERIES, 4]}
    network, _ = save_network(folder, heads, published_head(columns))
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return network


NAMES = {"id2label": {"0": "N/A", "1": "cat", "2": "dog"}}
STATISTICS = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "rescale_factor": 0.01}


@pytest.mark.parametrize(
    ("kind", "columns", "scores"),
    [("detr", 4, "softmax"), ("yolos", 4, "softmax"), ("dab-detr", 3, "sigmoid"), ("d_fine", 3, "sigmoid")],
)
def test_configuration_files_are_facts(tmp_path, kind, columns, scores) -> None:
    size = {"size": {"height": 64, "width": 64}}
    network = hugging_face(tmp_path, columns, {"model_type": kind, **NAMES}, {**STATISTICS, **size})
    inferred = read_card(load_checkpoint(str(network)))
    card = inferred.card
    assert (card.head["scores"], card.head["class_columns"], card.labels) == (scores, [1, 2], ["cat", "dog"])
    assert card.preprocess.scale == 0.01
    assert (card.preprocess.mean, card.preprocess.std) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert not inferred.guesses
    facts = ("head.scores", "head.class_columns", "labels", "preprocess.mean", "preprocess.resize")
    assert {inferred.sources[name] for name in facts} == {Source.METADATA}


def test_a_processor_that_keeps_the_ratio_leaves_the_resize_open(tmp_path) -> None:
    processor = {"do_normalize": False, **STATISTICS, "size": {"shortest_edge": 64, "longest_edge": 90}}
    inferred = read_card(load_checkpoint(str(hugging_face(tmp_path, 4, {"model_type": "detr"}, processor))))
    assert "letterbox_topleft" in inferred.guesses["preprocess.resize"]
    assert inferred.card.preprocess.mean == (0, 0, 0)
    assert inferred.sources["preprocess.mean"] is Source.METADATA


def test_a_detector_that_reads_a_text_is_refused(tmp_path) -> None:
    network = hugging_face(tmp_path, 256, {"model_type": "grounding-dino"}, {})
    with pytest.raises(BuildError, match="grounding-dino, a detector that looks for what a text says"):
        read_card(load_checkpoint(str(network)))


@pytest.mark.parametrize("beside", ["keypoints", "angles"])
def test_rf_detr_with_more_than_boxes_is_refused(tmp_path, beside) -> None:
    heads = {"labels": [QUERIES, 4], "boxes_raw": [QUERIES, 4]}
    network, _ = save_network(tmp_path, heads, rf_detr(4, beside))
    with pytest.raises(BuildError, match=f"not whole without its {beside}"):
        read_card(load_checkpoint(str(network)))


def test_coco_columns_are_a_guess_as_they_are_by_number_alone(tmp_path) -> None:
    network, _ = save_network(tmp_path, {"labels": [QUERIES, 91], "boxes_raw": [QUERIES, 4]}, rf_detr(91))
    inferred = read_card(load_checkpoint(str(network)))
    assert inferred.card.head["class_columns"][-1] == 90
    assert inferred.card.labels[-1] == "toothbrush"
    assert inferred.card.preprocess.mean == (0.485, 0.456, 0.406)
    assert "all columns" in inferred.guesses["head.class_columns"]


@pytest.mark.parametrize(("bias", "scores", "num_labels"), [(-4.6, "sigmoid", 3), (0.0, "softmax", 2)])
def test_a_bias_far_below_zero_is_a_sigmoids(tmp_path, bias, scores, num_labels) -> None:
    tail = published_head(3)
    tail.node("Add", [tail.constant("bias", np.full(3, bias, np.float32)), "logits"], "class_logits")
    tail.outputs[0].name = "class_logits"
    network, _ = save_network(tmp_path, {"logits": [QUERIES, 3], "boxes_raw": [QUERIES, 4]}, tail)
    inferred = read_card(load_checkpoint(str(network)))
    assert (inferred.card.head["scores"], len(inferred.card.labels)) == (scores, num_labels)
    assert inferred.sources["head.scores"] is Source.GUESS


def test_rt_detr_by_its_pyramid_has_no_statistics(tmp_path) -> None:
    tail = published_head(3)
    scales = tail.constant("scales", np.array([1, 1, 2, 2], np.float32))
    larger = tail.node("Resize", ["map", "", scales], "larger", mode="nearest")
    joined = tail.node("Concat", [larger, "finer"], "joined", axis=1)
    axes = tail.constant("axes", [1, 2, 3])
    mean = tail.node("ReduceSum", [joined, axes], "sum", keepdims=0)
    tail.node("Add", ["logits", tail.node("Unsqueeze", [mean, tail.constant("last", [1, 2])], "sums")], "out")
    tail.outputs[0].name = "out"
    heads = {"logits": [QUERIES, 3], "boxes_raw": [QUERIES, 4], "map": [2, 2, 2], "finer": [2, 4, 4]}
    network, _ = save_network(tmp_path, heads, tail)
    inferred = read_card(load_checkpoint(str(network)))
    assert inferred.card.preprocess.mean == (0, 0, 0)
    assert inferred.sources["preprocess.mean"] is Source.GUESS


def test_libreyolo_says_which_family_it_is(tmp_path) -> None:
    heads = {"logits": [QUERIES, 3], "boxes_raw": [QUERIES, 4]}
    network, _ = save_network(tmp_path, heads, published_head(3))
    model = onnx.load(network)
    helper.set_model_props(model, {"model_family": "dfine", "names": '{"0": "x", "1": "y", "2": "z"}'})
    onnx.save(model, network)
    inferred = read_card(load_checkpoint(str(network)))
    assert (inferred.card.head["scores"], inferred.card.labels) == ("sigmoid", ["x", "y", "z"])
    assert inferred.card.preprocess.mean == (0, 0, 0)
    assert not inferred.guesses


def test_corners_are_no_detrs(tmp_path) -> None:
    tail = published_head(3)
    halves = tail.node("Split", ["pred_boxes"], "center", "size", axis=2)
    low = tail.node("Sub", [halves, "size"], "low")
    high = tail.node("Add", ["center", "size"], "high")
    tail.node("Concat", [low, high], "corner_boxes", axis=2)
    tail.outputs[1].name = "corner_boxes"
    network, _ = save_network(tmp_path, {"logits": [QUERIES, 3], "boxes_raw": [QUERIES, 4]}, tail)
    with pytest.raises(BuildError, match="no known detector"):
        read_card(load_checkpoint(str(network)))
