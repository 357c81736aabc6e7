"""Rows of box, score and class that a network suppressed itself, in every usual packing."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.infer_card import families_that_fit, infer_card, read_card
from detserve_builder.preparation.prepare import prepare
from detserve_core.errors import CardError
from tests.builder.families import suppressed_networks as networks
from tests.builder.families.harness import Tail, save_network
from tests.builder.families.suppressed_networks import KEPT_ABOVE, ORDERS, ROWS, formula
from tests.builder.families.test_decoders import run_original
from tests.builder.families.test_opsets import assert_same_at_every_opset
from tests.builder.tiny_networks import pictures
from tests.shared_data import SHARED, needs_shared

EXPORTED = SHARED / "models/todays/exported"
PACKINGS = {
    "apart": (networks.apart, {}),
    "apart with a count": (networks.apart, {"count": True}),
    "apart, by dtype": (networks.apart, {"names": ("a", "b", "c")}),
    "boxes with score": (networks.boxes_with_score, {}),
    "in one with a count": (networks.in_one, {"name": "paddle", "count": True}),
    **{f"in one, {name}": (networks.in_one, {"name": name}) for name in ORDERS},
}
LIVELY = {"preprocess": {"scale": 0.5, "mean": [1, 2, 3], "std": [1, 2, 4]}, "candidates": ROWS}


def prepared(folder, tail: Tail, seed: int = 0, **fields):
    path, base = networks.save(folder, tail, seed)
    (folder / "said.json").write_text(json.dumps(fields))
    checkpoint = load_checkpoint(str(path))
    card = infer_card(checkpoint, said=folder / "said.json")
    return base, card, prepare(checkpoint, card, pictures(2))


def of_picture(model, picture) -> tuple[np.ndarray, ...]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(["boxes", "scores", "classes"], {"images": picture[None]})
    return tuple(value[0] for value in found)


def assert_same_rows(found, boxes, scores, classes) -> None:
    """Best first, and nothing but padding behind them."""
    order = np.argsort(-scores, kind="stable")
    found_boxes, found_scores, found_classes = found
    count = len(scores)
    np.testing.assert_allclose(found_scores[:count], scores[order], rtol=1e-4)
    np.testing.assert_allclose(found_boxes[:count], boxes[order], rtol=1e-3, atol=1e-2)
    assert found_classes[:count].tolist() == classes[order].tolist()
    assert not found_scores[count:].any()
    assert set(found_classes[count:].tolist()) <= {-1}


@pytest.mark.parametrize("packing", PACKINGS)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_rows_are_the_networks_own(tmp_path_factory, packing: str, seed: int) -> None:
    make, options = PACKINGS[packing]
    base, card, result = prepared(tmp_path_factory.mktemp("net"), make(**options), seed, **LIVELY)
    assert (card.family, len(card.labels), card.thresholds.iou) == ("suppressed", 3, 1.0)
    image = pictures(1, seed=seed)[0]
    boxes, scores, classes = formula(run_original(base, card, image))
    counted = np.full(ROWS, True)
    if packing == "apart with a count":
        counted = np.arange(ROWS) < (scores > KEPT_ABOVE).sum()
    elif packing.startswith("in one,"):
        counted = scores > KEPT_ABOVE
    found = of_picture(result.model, image)
    assert_same_rows(found, boxes[counted], scores[counted], classes[counted])


@pytest.mark.parametrize("packing", PACKINGS)
def test_every_packing_at_every_opset(tmp_path, packing) -> None:
    make, options = PACKINGS[packing]
    assert_same_at_every_opset(networks.save(tmp_path, make(**options))[0], LIVELY)


@pytest.mark.parametrize("packing", ["apart", "apart with a count", "boxes with score"])
def test_fixed_rows_come_in_batches(tmp_path, packing) -> None:
    make, options = PACKINGS[packing]
    assert prepared(tmp_path, make(**options), **LIVELY)[2].batch_obstacle is None


@pytest.mark.parametrize("name", ["yolov7", "paddle"])
def test_rows_of_one_picture_come_one_by_one_and_why(tmp_path, name) -> None:
    _, _, result = prepared(tmp_path, networks.in_one(name), **LIVELY)
    assert result.batch_obstacle == f"this output lists the detections of one picture: {name}"


def test_columns_that_no_row_shows_are_a_guess(tmp_path) -> None:
    path, _ = networks.save(tmp_path, networks.in_one("yolov7", above=2.0))
    inferred = read_card(load_checkpoint(str(path)))
    assert inferred.card.head["scores"] == {"output": "yolov7", "column": 6}
    assert inferred.guesses["head.scores"].startswith("first columns boxes 1, scores 5, classes 6; boxes 3,")


def test_columns_that_fit_no_order_are_asked_for(tmp_path) -> None:
    path, _ = save_network(tmp_path, {"raw": [20, 7]}, _without_batch("raw", "output"))
    (tmp_path / "said.json").write_text(json.dumps({"labels": ["a"]}))
    with pytest.raises(CardError, match=r"fit no order of columns that is known; say boxes, scores, classes"):
        infer_card(load_checkpoint(str(path)), said=tmp_path / "said.json")
    parts = {
        part: {"output": "output", "column": n} for part, n in (("boxes", 0), ("scores", 5), ("classes", 6))
    }
    (tmp_path / "said.json").write_text(json.dumps({"head": parts, "labels": ["a"]}))
    assert infer_card(load_checkpoint(str(path)), said=tmp_path / "said.json").family == "suppressed"


def test_seven_columns_alone_are_no_rows(tmp_path) -> None:
    """YOLOv5 with two classes gives [1,84,7] too."""
    path, _ = save_network(tmp_path, {"output": [84, 7]})
    assert "suppressed" not in [family.name for family, _ in families_that_fit(load_checkpoint(str(path)))]


def _without_batch(name: str, output: str) -> Tail:
    tail = Tail()
    tail.node("Squeeze", [name, tail.constant("first", np.array([0]))], output)
    tail.outputs.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, [20, 7]))
    return tail


def test_classes_are_numbered_as_the_card_says(tmp_path) -> None:
    head = {"label_numbers": [2, 0]}
    base, card, result = prepared(tmp_path, networks.apart(), **LIVELY, labels=["c", "a"], head=head)
    image = pictures(1)[0]
    boxes, scores, classes = formula(run_original(base, card, image))
    counted = classes != 1
    renumbered = np.where(classes == 2, 0, 1)
    assert_same_rows(of_picture(result.model, image), boxes[counted], scores[counted], renumbered[counted])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": ["a", "b"]}, "labels: got 2, but head.label_numbers lists 3"),
        ({"head": {"label_numbers": [1, 1, 2]}}, "head.label_numbers: a number is listed twice"),
        ({"head": {"rows": 7}}, "head.rows: 7 gives 7 anchors, but the graph's output boxes has 20"),
        (
            {"head": {"scores": {"output": "x"}}},
            "head.scores: got 'x', but the graph's outputs are boxes, scores",
        ),
        ({"head": {"boxes": {"output": "boxes", "column": 1}}}, "head.boxes.column: got 1, but boxes has 4"),
    ],
)
def test_a_card_that_contradicts_the_graph_names_the_field(tmp_path, fields, message) -> None:
    with pytest.raises(CardError, match=message):
        prepared(tmp_path, networks.apart(), **fields)


def test_tensorflows_outputs_are_known_by_name(tmp_path) -> None:
    base, card, result = prepared(tmp_path, networks.tensorflow(), **LIVELY)
    assert (card.head["label_numbers"], card.head["coding"], card.head["units"]) == (
        [1, 2, 3], "yxyx", "normalised"
    )  # fmt: skip
    assert (card.head["boxes"]["output"], card.head["count"]) == ("detection_boxes", "num_detections")
    image = pictures(1)[0]
    assert_same_rows(of_picture(result.model, image), *formula(run_original(base, card, image)))


@needs_shared
@pytest.mark.parametrize("name", ["hand_boxes_scores_classes", "hand_mmdeploy"])
def test_files_as_exporters_write_them(name) -> None:
    card = infer_card(load_checkpoint(str(EXPORTED / f"{name}.onnx")))
    assert (card.family, card.candidates, len(card.labels)) == ("suppressed", 20, 3)


@needs_shared
def test_paddles_columns_are_known_by_its_inputs(tmp_path) -> None:
    (tmp_path / "said.json").write_text(json.dumps({"labels": ["a", "b"]}))
    card = infer_card(load_checkpoint(str(EXPORTED / "hand_ppyoloe.onnx")), said=tmp_path / "said.json")
    assert [card.head[part]["column"] for part in ("classes", "scores", "boxes")] == [0, 1, 2]
    assert (card.head["count"], card.preprocess.resize.value) == ("out1", "stretch")
