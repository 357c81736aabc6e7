"""YOLOv10's rows, with what segment and pose models put behind; RT-DETR's; DeepStream's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.errors import BuildError
from detserve_builder.infer_card import infer_card
from tests.builder.families.harness import Tail, assert_decodes, save_network
from tests.builder.families.test_decoders import sigmoid
from tests.builder.tiny_networks import SIDE_PX

HEADS = {"output0": [30, 6]}
LABELS = {"labels": ["a", "b", "c"]}


def corners_formula(heads):
    rows = heads["output0"]
    return rows[:, :4], rows[:, 4], np.trunc(rows[:, 5])


def shares_formula(heads):
    rows = heads["output0"]
    cx, cy, w, h = rows[:, :4].T * SIDE_PX
    boxes = np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 1)
    return boxes, rows[:, 4], np.trunc(rows[:, 5])


@pytest.mark.parametrize(
    ("boxes", "formula"), [("xyxy_px", corners_formula), ("cxcywh_share", shares_formula)]
)
@pytest.mark.parametrize("batch", [1, 5])
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_rows(tmp_path_factory, boxes, formula, batch, seed) -> None:
    assert_decodes(
        tmp_path_factory.mktemp("net"),
        HEADS,
        formula,
        family="end_to_end",
        card={**LABELS, "head": {"boxes": boxes}},
        batch=batch,
        seed=seed,
    )


def every_anchor(*, hidden: bool = False) -> Tail:
    """The best class of each of the 84 anchors, as DeepStream's exporters write it."""
    tail = Tail()
    scores = tail.node("Sigmoid", ["class"], "scores_of_all")
    axis = tail.constant("last", [2])
    best = tail.node("ReduceMax", [scores], "best", axes=[2], keepdims=1)
    number = tail.node("ArgMax", [scores], "number", axis=2, keepdims=1)
    label = tail.node("Cast", [number], "label", to=1)
    output = tail.node("Concat", ["box", best, label], "output", axis=2)
    if hidden:
        flat = tail.node("Unsqueeze", [output, axis], "with_more")
        output = tail.node("ReduceMax", [flat], "as_one", axes=[2], keepdims=0)
    tail.output(output, [84, 6])
    return tail


def every_anchor_formula(heads):
    scores = sigmoid(heads["class"])
    return heads["box"], scores.max(1), scores.argmax(1)


@pytest.mark.parametrize("hidden", [False, True])
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_deepstream(tmp_path_factory, hidden, seed) -> None:
    folder, heads = tmp_path_factory.mktemp("net"), {"box": [84, 4], "class": [84, 3]}
    assert_decodes(
        folder,
        heads,
        every_anchor_formula,
        family="end_to_end",
        batch=2,
        seed=seed,
        tail=every_anchor(hidden=hidden),
        card=LABELS if hidden else {},
    )


def test_deepstream_is_suppressed_and_yolov10_is_not(tmp_path) -> None:
    path, _ = save_network(tmp_path, {"box": [84, 4], "class": [84, 3]}, every_anchor())
    card = infer_card(load_checkpoint(str(path)))
    assert card.thresholds.iou < 1
    assert len(card.labels) == 3


def class_scores_of_rtdetr() -> Tail:
    """Ultralytics' RT-DETR up to 2025 (ultralytics/nn/modules/head.py): shares and scores, both sigmoids."""
    tail = Tail()
    tail.node("TopK", ["all_queries", tail.constant("k", [30])], "queries", "index", axis=1)
    chosen = tail.node("Unsqueeze", ["queries", tail.constant("axis", [2])], "chosen")
    tail.node("Add", ["class", chosen], "class_of_chosen")
    parts = [tail.node("Sigmoid", [name], f"{name}_share") for name in ("box", "class_of_chosen")]
    tail.output(tail.node("Concat", parts, "output0", axis=2), [30, 7])
    return tail


def class_scores_formula(heads):
    cx, cy, w, h = sigmoid(heads["box"]).T * SIDE_PX
    boxes = np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 1)
    chosen = -np.sort(-heads["all_queries"])[:30]
    return boxes, sigmoid(heads["class"] + chosen[:, None])


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_scores_of_all_classes(tmp_path_factory, seed) -> None:
    folder, heads = tmp_path_factory.mktemp("net"), {"box": [30, 4], "class": [30, 3], "all_queries": [50]}
    tail = class_scores_of_rtdetr()
    assert_decodes(folder, heads, class_scores_formula, family="end_to_end", batch=2, seed=seed, tail=tail)


def ranked(behind: int, *, masks: bool = False) -> Tail:
    """The 20 best of 84 boxes of three classes with their other columns, as YOLO26's head takes them."""
    tail = Tail()
    tail.node("TopK", ["all_scores", tail.constant("k", [20])], "best", "index", axis=1)
    tail.node("Mod", ["index", tail.constant("num_classes", 3)], "class_index")
    tail.node("Cast", ["class_index"], "class", to=1)
    axis = tail.constant("axis", [2])
    columns = [tail.node("Unsqueeze", [name, axis], f"{name}_column") for name in ("best", "class")]
    tail.output(tail.node("Concat", ["box", *columns, "others"], "output0", axis=2), [20, 6 + behind])
    if masks:
        tail.output("prototypes", [behind, 16, 16])
    return tail


def ranked_heads(behind: int, *, masks: bool = False) -> dict[str, list[int]]:
    heads = {"all_scores": [252], "box": [20, 4], "others": [20, behind]}
    return {**heads, "prototypes": [behind, 16, 16]} if masks else heads


def ranked_formula(heads):
    order = np.argsort(-heads["all_scores"], kind="stable")[:20]
    return heads["box"], heads["all_scores"][order], order % 3


@pytest.mark.parametrize(("behind", "masks"), [(6, False), (8, False), (5, True)])
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_columns_behind_the_class(tmp_path_factory, behind, masks, seed) -> None:
    assert_decodes(
        tmp_path_factory.mktemp("net"),
        ranked_heads(behind, masks=masks),
        ranked_formula,
        family="end_to_end",
        batch=2,
        seed=seed,
        tail=ranked(behind, masks=masks),
    )


def test_an_angle_behind_the_class_is_refused(tmp_path) -> None:
    path, _ = save_network(tmp_path, ranked_heads(1), ranked(1))
    with pytest.raises(BuildError, match="YOLO obb: the column behind the classes is the angle"):
        infer_card(load_checkpoint(str(path)))
