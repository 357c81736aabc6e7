"""A detector that the card alone describes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.errors import BuildError
from detserve_builder.infer_card import infer_card
from detserve_builder.prepare import prepare
from detserve_client import CardError
from tests.builder.families.harness import assert_decodes, save_network
from tests.builder.test_decoders import sigmoid
from tests.builder.tiny_networks import SIDE_PX, pictures

ANCHORS, COLUMNS = 17, 9
CODINGS = {
    "xyxy": lambda a, b, c, d: (a, b, c, d),
    "xywh": lambda a, b, c, d: (a, b, a + c, b + d),
    "cxcywh": lambda a, b, c, d: (a - c / 2, b - d / 2, a + c / 2, b + d / 2),
    "yxyx": lambda a, b, c, d: (b, a, d, c),
}


def softmax(x):
    exponentials = np.exp(x - x.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


ACTIVATIONS = {"none": lambda x: x, "sigmoid": sigmoid, "softmax": softmax}


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    one_output=st.booleans(),
    channels_first=st.booleans(),
    coding=st.sampled_from(sorted(CODINGS)),
    units=st.sampled_from(["pixels", "normalised"]),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    objectness=st.booleans(),
    background=st.sampled_from([None, 0, 1, 3]),
)
def test_every_description(
    tmp_path_factory, seed, one_output, channels_first, coding, units, activation, objectness, background
) -> None:
    """Columns: four of the box, objectness, four of scores; in one output or as two."""
    head = {
        "anchors": ANCHORS,
        "channels_first": channels_first,
        "box_coding": coding,
        "units": units,
        "activation": activation,
        "objectness_column": (4 if one_output else 0) if objectness else None,
        "background_column": background,
    }
    if one_output:
        heads = {"out": [ANCHORS, COLUMNS]}
        head |= {"boxes": "out", "scores": "out", "boxes_columns": [0, 4], "scores_columns": [5, 9]}
    else:
        heads = {"box": [ANCHORS, 4], "score": [ANCHORS, COLUMNS - 4]}
        head |= {"boxes": "box", "scores": "score", "scores_columns": [1, 5]}
    if channels_first:
        heads = {name: shape[::-1] for name, shape in heads.items()}

    def formula(outputs):
        rows = [outputs["out"]] if one_output else [outputs["box"], outputs["score"]]
        rows = np.concatenate([part.T if channels_first else part for part in rows], axis=1)
        boxes = np.stack(CODINGS[coding](*rows[:, :4].T), 1) * (SIDE_PX if units == "normalised" else 1)
        scores = ACTIVATIONS[activation](rows[:, 5:])
        if background is not None:
            scores = np.delete(scores, background, axis=1)
        if objectness:
            scores = scores * (rows[:, 4:5] if activation == "none" else sigmoid(rows[:, 4:5]))
        return boxes, scores

    assert_decodes(
        tmp_path_factory.mktemp("net"),
        heads,
        formula,
        family="generic",
        named=True,
        card={
            "head": head,
            "labels": ["a", "b", "c"] if background is not None else ["a", "b", "c", "d"],
            "preprocess": {"resize": "stretch"},
        },
        batch=3,
        seed=seed,
    )


GOOD = {
    "anchors": ANCHORS,
    "boxes": "box",
    "scores": "score",
    "box_coding": "xyxy",
    "units": "pixels",
    "activation": "none",
}


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"boxes": "boxes"}, "head.boxes: got 'boxes', but the graph's outputs are box, score"),
        ({"anchors": 18}, "head.anchors: 18 gives 18 anchors, but the graph's output box has 17"),
        ({"boxes_columns": [0, 3]}, "head.boxes_columns: 0 to 3 are 3 columns, a box has 4"),
        ({"scores_columns": [3, 9]}, "head.scores_columns: got 3 to 9, but the output has 5 columns"),
        ({"objectness_column": 5}, "head.objectness_column: got 5 to 6, but the output has 5 columns"),
        ({"background_column": 0}, "labels: got 5, but the graph's output score has 4 classes"),
        ({"units": "metres"}, "head.units: input should be 'pixels' or 'normalised'"),
        ({"activation": None}, "head.activation: input should be"),
        ({"channels_first": True}, "head.anchors: 17 gives 17 anchors, but the graph's output box has 4"),
    ],
)
def test_what_contradicts_the_graph_is_named(tmp_path, said, words) -> None:
    network, _ = save_network(tmp_path, {"box": [ANCHORS, 4], "score": [ANCHORS, 5]})
    card = {
        "family": "generic",
        "labels": list("abcde"),
        "preprocess": {"resize": "stretch"},
        "head": {**GOOD, **said},
    }
    (tmp_path / "card.json").write_text(json.dumps(card))
    checkpoint = load_checkpoint(str(network))
    with pytest.raises(CardError) as caught:
        prepare(checkpoint, infer_card(checkpoint), pictures(2))
    assert words in str(caught.value)


def test_it_is_never_guessed(tmp_path) -> None:
    network, _ = save_network(tmp_path, {"box": [ANCHORS, 4], "score": [ANCHORS, 5]})
    with pytest.raises(BuildError, match="no known detector .* a card of the family generic can"):
        infer_card(load_checkpoint(str(network)))
