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
from detserve_builder.preparation.prepare import prepare
from detserve_client import CardError
from tests.builder.families.harness import Tail, assert_decodes, save_network
from tests.builder.families.test_decoders import sigmoid
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


def test_rows_without_a_batch_dimension(tmp_path) -> None:
    tail = Tail()
    tail.node("Reshape", ["out", tail.constant("rows", [-1, COLUMNS])], "rows_of_all")
    tail.output("rows_of_all", [COLUMNS])
    tail.outputs[0].type.tensor_type.shape.dim[0].dim_value = ANCHORS
    head = {
        "anchors": ANCHORS,
        "boxes": "rows_of_all",
        "boxes_columns": [0, 4],
        "scores": "rows_of_all",
        "scores_columns": [4, COLUMNS],
        "box_coding": "xywh",
        "units": "pixels",
        "activation": "softmax",
    }

    def formula(outputs):
        rows = outputs["out"]
        return np.stack(CODINGS["xywh"](*rows[:, :4].T), 1), softmax(rows[:, 4:])

    card = {"head": head, "labels": list("abcde"), "preprocess": {"resize": "stretch"}}
    assert_decodes(
        tmp_path,
        {"out": [ANCHORS, COLUMNS]},
        formula,
        family="generic",
        named=True,
        card=card,
        tail=tail,
        batch=3,
        seed=0,
    )


STEPS = (16, 32)


def priors(per_cell: int, offset: float, sizes) -> list[tuple[float, float, float, float]]:
    return [
        ((column + offset) * step, (row + offset) * step, *sizes[step][box])
        for step in STEPS
        for row in range(SIDE_PX // step)
        for column in range(SIDE_PX // step)
        for box in range(per_cell)
    ]


AGAINST_PRIORS = {
    "center_size": lambda x, y, w, h, a, b, c, d: (
        x + a * w - w * np.exp(c) / 2,
        y + b * h - h * np.exp(d) / 2,
        x + a * w + w * np.exp(c) / 2,
        y + b * h + h * np.exp(d) / 2,
    ),
    "center_size_linear": lambda x, y, w, h, a, b, c, d: (
        x + a * w - c * w / 2,
        y + b * h - d * h / 2,
        x + a * w + c * w / 2,
        y + b * h + d * h / 2,
    ),
    "distances": lambda x, y, w, h, a, b, c, d: (x - a * w, y - b * h, x + c * w, y + d * h),
}


def rows_of(outputs, kind: str, layout: str, per_cell: int):
    """The rows of all strides as the layout has them: cell by cell, in it box by box."""
    parts = []
    for step in STEPS:
        part = outputs[f"{kind}_{step}"]
        if layout == "maps":
            part = np.stack(np.split(part, per_cell))
            part = part.reshape(*part.shape[:2], -1).transpose(2, 0, 1).reshape(-1, part.shape[1])
        parts.append(part.T if layout == "channels first" else part)
    return np.concatenate(parts)


def shape_of(columns: int, step: int, layout: str, per_cell: int) -> list[int]:
    side = SIDE_PX // step
    if layout == "maps":
        return [per_cell * columns, side, side]
    rows = per_cell * side * side
    return [columns, rows] if layout == "channels first" else [rows, columns]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    coding=st.sampled_from(sorted(AGAINST_PRIORS)),
    layout=st.sampled_from(["rows", "channels first", "maps"]),
    per_cell=st.integers(1, 2),
    offset=st.sampled_from([0, 0.5]),
    variance=st.sampled_from([1.0, 0.1]),
    activation=st.sampled_from(["sigmoid", "softmax"]),
    objectness=st.booleans(),
    score_of=st.sampled_from(["product", "square_root_of_product"]),
)
def test_every_description_of_several_outputs(
    tmp_path_factory, seed, coding, layout, per_cell, offset, variance, activation, objectness, score_of
) -> None:
    """Boxes have two landmark columns behind; objectness, where there is one, has outputs of its own."""
    sizes = {step: [(step, step / 2), (step / 2, step)][:per_cell] for step in STEPS}
    kinds = {"box": 6, "score": 3, **({"object": 1} if objectness else {})}
    names = {kind: [f"{kind}_{step}" for step in STEPS] for kind in kinds}
    head = {
        "anchors": per_cell * sum((SIDE_PX // step) ** 2 for step in STEPS),
        "boxes": names["box"],
        "boxes_columns": [0, 4],
        "scores": names["score"],
        "objectness": names.get("object"),
        "channels_first": layout == "channels first",
        "box_coding": coding,
        "prior_grid": {
            "maps": [
                {"step_px": step, "cell_offset": offset, "sizes_wh_px": boxes}
                for step, boxes in sizes.items()
            ]
        },
        "variances": [variance] * 4,
        "activation": activation,
        "score_of": score_of if objectness else "product",
    }

    def formula(outputs):
        rows = {kind: rows_of(outputs, kind, layout, per_cell) for kind in kinds}
        pairs = zip(priors(per_cell, offset, sizes), variance * rows["box"][:, :4], strict=True)
        boxes = [AGAINST_PRIORS[coding](*prior, *numbers) for prior, numbers in pairs]
        scores = ACTIVATIONS[activation](rows["score"])
        if objectness:
            scores = scores * sigmoid(rows["object"])
            scores = np.sqrt(scores) if score_of == "square_root_of_product" else scores
        return np.array(boxes), scores

    assert_decodes(
        tmp_path_factory.mktemp("net"),
        {
            name: shape_of(kinds[kind], step, layout, per_cell)
            for kind, of_kind in names.items()
            for step, name in zip(STEPS, of_kind, strict=True)
        },
        formula,
        family="generic",
        named=True,
        card={
            "head": head,
            "labels": ["a", "b", "c"],
            "preprocess": {"resize": "stretch", "scale": 0.1},  # a square root magnifies rounding near 0
        },
        batch=2,
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


GRID = {"maps": [{"step_px": 16, "sizes_wh_px": [[16, 16]]}]}


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
        ({"units": None}, "head: box_coding xyxy needs units"),
        ({"box_coding": "distances", "units": None}, "head: box_coding distances needs prior_grid"),
        ({"box_coding": "distances", "prior_grid": GRID}, "head: box_coding distances takes no units"),
        (
            {"box_coding": "distances", "prior_grid": GRID, "units": None},
            "head.prior_grid: describes 16 priors, but the graph has 17 anchors",
        ),
        ({"score_of": "square_root_of_product"}, "head: score_of square_root_of_product needs objectness"),
        ({"scores": ["score", "box"]}, "head.scores: score, box have 4 and 5 columns"),
        (
            {"boxes": ["box", "box"]},
            "head.anchors: 17 gives 17 anchors, but the graph's output box and box has 34",
        ),
        ({"objectness": "object"}, "head.objectness: got 'object', but the graph's outputs are box, score"),
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
