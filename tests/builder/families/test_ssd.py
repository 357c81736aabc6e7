"""SSD: what is read off the graph, and the decode against the papers' formulas in plain numpy."""

from __future__ import annotations

import json
import math

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.errors import BuildError
from detserve_builder.infer_card import infer_card, read_card
from detserve_builder.preparation.prepare import prepare
from detserve_client import CardError
from tests.builder.families.harness import assert_same_detections
from tests.builder.families.ssd_networks import MAP_SIDES, save_ssd
from tests.builder.families.test_decoders import run_original
from tests.builder.tiny_networks import SIDE_PX, pictures

CELL_SIZES_WH_PX = (((10, 10), (14, 20), (20, 14)), ((30, 30), (50, 25), (25, 50)))


def grid_priors() -> np.ndarray:
    """cx, cy, w, h of every prior of CELL_SIZES_WH_PX as fractions of the picture, by loops."""
    return np.array(
        [
            ((x + 0.5) / side, (y + 0.5) / side, w / SIDE_PX, h / SIDE_PX)
            for side, sizes in zip(MAP_SIDES, CELL_SIZES_WH_PX, strict=True)
            for y in range(side)
            for x in range(side)
            for w, h in sizes
        ]
    )


GRID = {
    "maps": [
        {"cells_wh": [side, side], "sizes_wh_px": sizes}
        for side, sizes in zip(MAP_SIDES, CELL_SIZES_WH_PX, strict=True)
    ]
}
PRIORS = grid_priors()
PRIOR_CORNERS = np.hstack([PRIORS[:, :2] - PRIORS[:, 2:] / 2, PRIORS[:, :2] + PRIORS[:, 2:] / 2])
TENSORS = PRIORS.astype(np.float32)


def center_size(t, prior, variances):
    """Section 2.2 of the SSD paper, solved for the box; x1, y1, x2, y2 as fractions of the picture."""
    cx = prior[0] + variances[0] * t[0] * prior[2]
    cy = prior[1] + variances[1] * t[1] * prior[3]
    w, h = prior[2] * math.exp(variances[2] * t[2]), prior[3] * math.exp(variances[3] * t[3])
    return np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])


def softmax(rows):
    grown = np.exp(rows - rows.max(1, keepdims=True))
    return grown / grown.sum(1, keepdims=True)


def sigmoid(rows):
    return 1 / (1 + np.exp(-rows))


def from_deltas(heads, variances=(0.1, 0.1, 0.2, 0.2)):
    return np.array([center_size(t, p, variances) for t, p in zip(heads["loc"], PRIORS, strict=True)])


# network, card, boxes as fractions of the picture, scores of the labels' columns
CASES = {
    "prior grid, logits of a softmax": (
        {},
        {"head": {"prior_grid": GRID, "activation": "softmax", "variances": [0.1, 0.2, 0.3, 0.4]}},
        lambda heads: from_deltas(heads, (0.1, 0.2, 0.3, 0.4)),
        lambda heads: softmax(heads["conf"])[:, 1:],
    ),
    "pair of initialisers, y first, sigmoid in the graph": (
        {
            "activation": "Sigmoid",
            "priors": {"anchors_hw": TENSORS[:, [3, 2]], "anchors_yx": TENSORS[None, :, [1, 0]]},
        },
        {},
        lambda heads: np.array(
            [
                center_size(t[[1, 0, 3, 2]], p, [0.1, 0.1, 0.2, 0.2])
                for t, p in zip(heads["loc"], PRIORS, strict=True)
            ]
        ),
        lambda heads: heads["conf"][:, 1:],
    ),
    "initialiser of corners in pixels, background last": (
        {"activation": "Softmax", "priors": {"p": (PRIOR_CORNERS * SIDE_PX).astype(np.float32)}},
        {"head": {"class_columns": [0, 1, 2]}},
        from_deltas,
        lambda heads: heads["conf"][:, :3],
    ),
    "corner coding, gaps among the columns": (
        {"columns": 7},
        {
            "labels": ["a", "b", "c"],
            "head": {
                "coding": "corner",
                "prior_grid": GRID,
                "activation": "sigmoid",
                "class_columns": [1, 2, 5],
            },
        },
        lambda heads: PRIOR_CORNERS + heads["loc"] * (0.1, 0.1, 0.2, 0.2),
        lambda heads: sigmoid(heads["conf"])[:, [1, 2, 5]],
    ),
    "decoded, normalised": (
        {
            "activation": "Softmax",
            "decoded": True,
            "priors": {"centers": TENSORS[:, :2], "sizes": TENSORS[:, 2:]},
        },
        {},
        lambda heads: heads["loc"],
        lambda heads: heads["conf"][:, 1:],
    ),
    "decoded, in pixels, y first": (
        {
            "activation": "Sigmoid",
            "decoded": True,
            "priors": {"centers": TENSORS[:, [1, 0]] * SIDE_PX, "sizes": TENSORS[:, [3, 2]] * SIDE_PX},
        },
        {"head": {"axis_order": "yx"}},
        lambda heads: heads["loc"][:, [1, 0, 3, 2]] / SIDE_PX,
        lambda heads: heads["conf"][:, 1:],
    ),
}


def network(path, **options):
    return save_ssd(path, 3, **{"columns": 4, **options})


def read(folder, network_options, card_fields, **options):
    path = network(folder / "net.onnx", **network_options, **options)
    (folder / "card.json").write_text(json.dumps(card_fields))
    return path, load_checkpoint(str(path))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batch", [1, 5])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_prepared_graph_decodes_as_the_paper_says(tmp_path_factory, case, batch, seed) -> None:
    options, card_fields, boxes_of, scores_of = CASES[case]
    path, checkpoint = read(
        tmp_path_factory.mktemp("ssd"), options, card_fields, seed=seed, batch=1 if seed % 2 else "batch"
    )
    card = infer_card(checkpoint)
    assert (card.family, card.candidates) == ("ssd", 60)
    prepared = prepare(checkpoint, card, pictures(2))
    assert prepared.batch_obstacle is None

    images = pictures(batch, seed=seed)
    session = ort.InferenceSession(prepared.model.SerializeToString(), providers=["CPUExecutionProvider"])
    boxes, scores, classes = session.run(["boxes", "scores", "classes"], {"images": images})
    for index, picture in enumerate(images):
        heads = run_original(path, card, picture)
        expected = scores_of(heads)
        np.testing.assert_allclose(scores[index], np.sort(expected.max(1))[::-1], rtol=1e-4, atol=1e-5)
        assert_same_detections(
            (boxes[index], scores[index], classes[index]),
            (boxes_of(heads) * SIDE_PX, expected.max(1), expected),
        )


def test_the_draft_says_what_the_graph_tells(tmp_path) -> None:
    options, _, _, _ = CASES["pair of initialisers, y first, sigmoid in the graph"]
    card = infer_card(load_checkpoint(str(network(tmp_path / "net.onnx", **options))))
    assert card.head == {
        "boxes_output": "loc",
        "num_anchors": 60,
        "class_columns": [1, 2, 3],
        "activation": "none",
        "coding": "center_size",
        "axis_order": "yx",
        "prior_tensors": {
            "names": ["anchors_yx", "anchors_hw"],
            "form": "center_size",
            "units": "normalized",
        },
    }
    assert card.labels == ["class_0", "class_1", "class_2"]


NO_BACKGROUND = "0 to 3, where column 0 is not a background"


@pytest.mark.parametrize(
    ("activation", "bias", "columns", "else_"),
    [
        ("Sigmoid", -20.0, [0, 1, 2, 3], "1 to 3, where column 0 is the background"),
        ("Sigmoid", (20.0, -20.0, -20.0, -20.0), [1, 2, 3], NO_BACKGROUND),
        ("Sigmoid", 0.0, [1, 2, 3], NO_BACKGROUND),
        ("Softmax", 0.0, [1, 2, 3], None),
        ("", 0.0, [1, 2, 3], NO_BACKGROUND),
    ],
    ids=["classes alone", "background in column 0", "untrained", "softmax", "not activated"],
)
def test_a_background_column_where_there_is_one(tmp_path, activation, bias, columns, else_) -> None:
    """Sigmoids that all but never answer know no background."""
    _, checkpoint = read(
        tmp_path,
        {"activation": activation, "bias": bias},
        {"head": {"prior_grid": GRID, "activation": "none"}},
    )
    inferred = read_card(checkpoint)
    assert inferred.card.head["class_columns"] == columns
    assert inferred.guesses.get("head.class_columns") == else_


def test_91_columns_are_cocos_category_ids(tmp_path) -> None:
    _, checkpoint = read(tmp_path, {"columns": 91, "activation": "Softmax"}, {"head": {"prior_grid": GRID}})
    card = infer_card(checkpoint)
    named = dict(zip(card.head["class_columns"], card.labels, strict=True))
    assert len(named) == 80
    assert (named[1], named[13], named[18], named[90]) == ("person", "stop sign", "dog", "toothbrush")
    assert not named.keys() & {0, 12, 26, 91}


@pytest.mark.parametrize(
    "options",
    [{"head_op": "MatMul"}, {"names": ("a", "b"), "activation": ""}],
    ids=["boxes of matrix products", "two outputs of four columns that nothing tells apart"],
)
def test_what_is_not_taken_for_an_ssd(tmp_path, options) -> None:
    with pytest.raises(BuildError, match="no known detector"):
        infer_card(load_checkpoint(str(network(tmp_path / "net.onnx", **options))))


RAW = {"activation": "Softmax"}


@pytest.mark.parametrize(
    ("options", "head", "labels", "words"),
    [
        (RAW, {}, None, "head: coding center_size needs prior_grid or prior_tensors"),
        ({}, {"prior_grid": GRID}, None, "head.activation: field required"),
        (
            RAW,
            {"prior_grid": GRID, "num_anchors": 7},
            None,
            "head.num_anchors: got 7, but the graph's output",
        ),
        (RAW, {"prior_grid": {"maps": GRID["maps"][:1]}}, None, "head.prior_grid: describes 48 priors, but"),
        (RAW, {"prior_grid": {"maps": []}}, None, "head.prior_grid.maps: list should have at least 1"),
        (RAW, {"coding": "decoded", "prior_grid": GRID}, None, "coding decoded takes no prior_grid"),
        (RAW, {"prior_tensors": {"names": ["p"]}}, None, "prior_tensors.names: the graph has no initialiser"),
        (RAW, {"prior_tensors": {"names": ["loc_4_weight"]}}, None, "expected rows of 4"),
        (
            RAW,
            {"prior_grid": GRID, "boxes_output": "x"},
            None,
            "head.boxes_output: got 'x', but the graph has",
        ),
        (RAW, {"prior_grid": GRID}, ["a", "b"], "labels: got 2, but head.class_columns lists 3 of the 4"),
        (RAW, {"prior_grid": GRID}, ["a", "", "c"], "labels: '' at index 1 is a gap; leave it out"),
        (RAW, {"prior_grid": GRID}, ["a", "???", "c"], "labels: '???' at index 1 is a gap; leave it out"),
        (RAW, {"prior_grid": GRID, "class_columns": [1, 2, 4]}, None, "head.class_columns: got 4, but"),
        (RAW, {"prior_grid": GRID, "class_columns": [1, 2, 2]}, None, "a score column is listed twice"),
        (RAW, {"prior_grid": GRID, "variances": [0.1]}, None, "head.variances.1: field required"),
    ],
)
def test_a_card_that_contradicts_the_graph_names_the_field(tmp_path, options, head, labels, words) -> None:
    fields = {"head": head, **({} if labels is None else {"labels": labels})}
    _, checkpoint = read(tmp_path, options, fields)
    with pytest.raises(CardError) as caught:
        prepare(checkpoint, infer_card(checkpoint), pictures(2))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
