"""DETR's logits and boxes, and RT-DETR's own export."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from tests.builder.families.harness import Tail, assert_decodes
from tests.builder.test_decoders import sigmoid
from tests.builder.tiny_networks import SIDE_PX

QUERIES, NUM_CLASSES = 20, 3


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
