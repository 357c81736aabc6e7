"""Detections that a graph lists by itself reach the contract: padded, cut, renumbered, for any D."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.errors import BuildError
from detserve_builder.infer_card import families_that_fit, infer_card
from detserve_builder.preparation.prepare import prepare
from detserve_core.errors import CardError
from tests.builder.families.nms_network import IOU_THRESHOLD, NUM_COLUMNS, save_nms_network
from tests.builder.tiny_networks import pictures, save_linear_network


def expected_rows(raw_boxes, raw_scores, score_threshold: float, most_rows: int) -> list[tuple]:
    """Score, label and box of what greedy class-wise NMS keeps, best first."""
    rows = []
    for label in range(1, NUM_COLUMNS):
        kept: list[int] = []
        for index in np.argsort(-raw_scores[:, label]):
            if raw_scores[index, label] <= score_threshold:
                break
            if all(overlap(raw_boxes[index], raw_boxes[other]) <= IOU_THRESHOLD for other in kept):
                kept.append(int(index))
        rows += [(float(raw_scores[index, label]), label, raw_boxes[index]) for index in kept]
    return sorted(rows, key=lambda row: -row[0])[:most_rows]


def overlap(a, b) -> float:
    sides = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    return sides.prod() / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - sides.prod())


def prepared(path, **fields):
    (path.parent / "said.json").write_text(json.dumps(fields))
    checkpoint = load_checkpoint(str(path))
    card = infer_card(checkpoint, said=path.parent / "said.json")
    return card, prepare(checkpoint, card, pictures(2))


@pytest.mark.parametrize("batch_dimension", [False, True])
@pytest.mark.parametrize("candidates", [3, 8, 20])
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31), score_threshold=st.sampled_from([0.05, 0.3, 0.6, 1.0]))
def test_rows_are_the_graphs_own_padded_to_k(
    tmp_path_factory, batch_dimension: bool, candidates: int, seed: int, score_threshold: float
) -> None:
    path = tmp_path_factory.mktemp("torchvision") / "net.onnx"
    save_nms_network(path, score_threshold=score_threshold, seed=seed, batch_dimension=batch_dimension)
    card, result = prepared(path, candidates=candidates)
    assert card.family == "torchvision"
    image = pictures(1, seed=seed)
    pixels = (image[0] / np.float32(255)).transpose(2, 0, 1)
    raw = ort.InferenceSession(path.with_suffix(".raw.onnx"), providers=["CPUExecutionProvider"])
    expected = expected_rows(
        *raw.run(None, {"image": pixels[None] if batch_dimension else pixels}), score_threshold, most_rows=8
    )[:candidates]

    session = ort.InferenceSession(result.model.SerializeToString(), providers=["CPUExecutionProvider"])
    boxes, scores, classes = session.run(["boxes", "scores", "classes"], {"images": image})
    assert (boxes.dtype, scores.dtype, classes.dtype) == (np.float32, np.float32, np.int32)
    assert (boxes.shape, scores.shape, classes.shape) == (
        (1, candidates, 4), (1, candidates), (1, candidates)
    )  # fmt: skip
    found = len(expected)
    np.testing.assert_allclose(scores[0, :found], [row[0] for row in expected], rtol=1e-5)
    assert classes[0, :found].tolist() == [row[1] - 1 for row in expected]
    places = np.reshape([row[2] for row in expected], (-1, 4))  # px; near the edge they cancel out
    np.testing.assert_allclose(boxes[0, :found], places, rtol=1e-4, atol=1e-4)
    assert set(classes[0, found:]) <= {-1}
    assert not scores[0, found:].any()


def test_an_empty_picture_and_a_full_one(tmp_path) -> None:
    """The two ends that the property meets by chance: D of 0, and D of more than K."""
    for score_threshold, found in ((1.0, 0), (0.01, 3)):
        path = save_nms_network(tmp_path / "net.onnx", score_threshold=score_threshold)
        _, result = prepared(path, candidates=3)
        session = ort.InferenceSession(result.model.SerializeToString())
        classes = session.run(["classes"], {"images": pictures(1)})[0][0]
        assert int((classes >= 0).sum()) == found


def test_card_fields_come_from_the_graph(tmp_path) -> None:
    card, _ = prepared(save_nms_network(tmp_path / "net.onnx", score_threshold=0.1, most_rows=7))
    assert card.candidates == 7
    assert card.input_wh == (64, 64)
    assert card.labels == ["class_0", "class_1", "class_2"]
    assert card.head == {"label_numbers": [1, 2, 3]}
    assert card.thresholds.iou == 1.0


def test_labels_are_renumbered_and_others_dropped(tmp_path) -> None:
    path = save_nms_network(tmp_path / "net.onnx", score_threshold=0.05)
    _, every = prepared(path)
    _, some = prepared(path, labels=["third", "first"], head={"label_numbers": [3, 1]})
    feed = {"images": pictures(1)}
    names = ["scores", "classes"]
    scores, classes = ort.InferenceSession(every.model.SerializeToString()).run(names, feed)
    some_scores, some_classes = ort.InferenceSession(some.model.SerializeToString()).run(names, feed)
    kept = np.isin(classes[0], (0, 2))
    count = int(kept.sum())
    assert 0 < count < (classes[0] >= 0).sum()
    np.testing.assert_array_equal(some_scores[0, :count], scores[0, kept])
    np.testing.assert_array_equal(some_classes[0, :count], np.where(classes[0, kept] == 2, 0, 1))
    assert set(some_classes[0, count:]) == {-1}


@pytest.mark.parametrize(
    ("batch_dimension", "obstacle"),
    [
        (False, "the input image is one picture, with no batch dimension"),
        (True, "this node lists the detections of one picture: NonMaxSuppression 'suppress'"),
    ],
)
def test_one_picture_at_a_time_and_why(tmp_path, batch_dimension: bool, obstacle: str) -> None:
    path = save_nms_network(tmp_path / "net.onnx", score_threshold=0.1, batch_dimension=batch_dimension)
    assert prepared(path)[1].batch_obstacle == obstacle


def test_a_graph_of_any_size_takes_the_cards(tmp_path) -> None:
    path = save_nms_network(tmp_path / "net.onnx", score_threshold=0.1, size=["height", "width"])
    with pytest.raises(BuildError, match=r"the size of the input .* is not fixed"):
        prepared(path)
    card, result = prepared(path, input_wh=[64, 64])
    assert card.input_wh == (64, 64)
    dims = result.model.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in dims] == [1, 64, 64, 3]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": ["a", "b"]}, "labels: got 2, but head.label_numbers lists 3"),
        ({"head": {"label_numbers": [1, 1, 2]}}, "head.label_numbers: a number is listed twice"),
        ({"head": {"label_numbers": []}}, "head.label_numbers"),
        ({"head": {"strides": [8]}}, "head.strides"),
        ({"input_wh": [32, 64]}, r"input_wh: got \[32, 64\], but the graph takes \[64, 64\]"),
    ],
)
def test_a_card_that_contradicts_the_graph_names_the_field(tmp_path, fields, message) -> None:
    path = save_nms_network(tmp_path / "net.onnx", score_threshold=0.1)
    with pytest.raises(CardError, match=message):
        prepared(path, **fields)


def test_other_families_do_not_claim_it(tmp_path) -> None:
    path = save_nms_network(tmp_path / "net.onnx", score_threshold=0.1, batch_dimension=True)
    assert [family.name for family, _ in families_that_fit(load_checkpoint(str(path)))] == ["torchvision"]
    other = save_linear_network(tmp_path / "other.onnx", {"output": [84, 8]})
    assert "torchvision" not in [f.name for f, _ in families_that_fit(load_checkpoint(str(other)))]
