"""YOLOv8's decoded output and raw heads, with and without what segment and pose models put behind."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detserve_builder.card_sources import Source
from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.errors import BuildError
from detserve_builder.infer_card import infer_card, read_card
from tests.builder.families.harness import Tail, assert_decodes, save_network
from tests.builder.families.test_decoders import sigmoid
from tests.builder.tiny_networks import SIDE_PX

NUM_CLASSES, REG_MAX, STRIDES = 3, 16, (8, 16, 32)
DECODED = {"output0": [4 + NUM_CLASSES, 84]}
LABELS = {"labels": ["a", "b", "c"]}


def decoded_formula(heads):
    cx, cy, w, h = heads["output0"][:4]
    boxes = np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 1)
    return boxes, heads["output0"][4:].T


def raw_heads(reg_max):
    shapes = {}
    for stride in STRIDES:
        side = SIDE_PX // stride
        shapes[f"box_{stride}"] = [4 * reg_max, side, side]
        shapes[f"class_{stride}"] = [NUM_CLASSES, side, side]
    return shapes


def joined(reg_max) -> Tail:
    """As the published head joins them: torch.cat((box, class), 1) per stride."""
    tail = Tail()
    for stride in STRIDES:
        side = SIDE_PX // stride
        tail.node("Concat", [f"box_{stride}", f"class_{stride}"], f"map_{stride}", axis=1)
        tail.output(f"map_{stride}", [4 * reg_max + NUM_CLASSES, side, side])
    return tail


def expectation(logits):
    weights = np.exp(logits - logits.max())
    return (weights / weights.sum() * np.arange(len(logits))).sum()


def raw_formula(heads):
    boxes, scores = [], []
    for stride in STRIDES:
        box, classes = heads[f"box_{stride}"], heads[f"class_{stride}"]
        side = box.shape[1]
        for y in range(side):
            for x in range(side):
                left, top, right, bottom = (
                    expectation(part) * stride for part in np.split(box[:, y, x].astype(np.float64), 4)
                )
                cx, cy = (x + 0.5) * stride, (y + 0.5) * stride
                boxes.append((cx - left, cy - top, cx + right, cy + bottom))
                scores.append(sigmoid(classes[:, y, x]))
    return np.array(boxes), np.array(scores)


@pytest.mark.parametrize("batch", [1, 5])
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_decoded(tmp_path_factory, batch, seed) -> None:
    folder = tmp_path_factory.mktemp("net")
    assert_decodes(folder, DECODED, decoded_formula, family="yolov8", batch=batch, seed=seed)


@pytest.mark.parametrize("reg_max", [REG_MAX, 8])
@pytest.mark.parametrize("batch", [1, 5])
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_raw_heads(tmp_path_factory, reg_max, batch, seed) -> None:
    assert_decodes(
        tmp_path_factory.mktemp("net"),
        raw_heads(reg_max),
        raw_formula,
        family="yolov8",
        batch=batch,
        seed=seed,
        tail=joined(reg_max),
    )


SPLIT = {"box": [4, 84], "class": [NUM_CLASSES, 84]}


def behind(columns: int, *, masks: bool = False, anchors_first: bool = False) -> Tail:
    """Boxes, sigmoids of the classes and ``columns`` others, as the published heads join them."""
    tail = Tail()
    parts = ["box", tail.node("Sigmoid", ["class"], "score"), *(["others"] if columns else [])]
    joined = tail.node("Concat", parts, "output0", axis=1)
    shape = [4 + NUM_CLASSES + columns, 84]
    if anchors_first:
        joined, shape = tail.node("Transpose", [joined], "turned", perm=[0, 2, 1]), shape[::-1]
    tail.output(joined, shape)
    if masks:
        tail.output("prototypes", [columns, 16, 16])
    return tail


def heads_with(columns: int, *, masks: bool = False) -> dict[str, list[int]]:
    others = {"others": [columns, 84]} if columns else {}
    return {**SPLIT, **others, **({"prototypes": [columns, 16, 16]} if masks else {})}


def split_formula(heads):
    cx, cy, w, h = heads["box"]
    boxes = np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 1)
    return boxes, sigmoid(heads["class"]).T


BEHIND = {
    "nothing": (heads_with(0), behind(0)),
    "anchors first": (heads_with(0), behind(0, anchors_first=True)),
    "masks": (heads_with(5, masks=True), behind(5, masks=True)),
    "key points": (heads_with(51), behind(51)),
    "key points without visibility": (heads_with(8), behind(8, anchors_first=True)),
}


@pytest.mark.parametrize(("heads", "tail"), BEHIND.values(), ids=BEHIND)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_what_lies_behind_the_classes_is_no_class(tmp_path_factory, heads, tail, seed) -> None:
    folder = tmp_path_factory.mktemp("net")
    assert_decodes(folder, heads, split_formula, family="yolov8", batch=2, seed=seed, tail=tail)


def described(path, **metadata):
    """The network with Ultralytics' metadata."""
    model = onnx.load(path)
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)
    return load_checkpoint(str(path))


NAMES = "{0: 'bolt', 1: 'nut', 2: 'washer'}"


def test_metadata_tells_where_the_graph_does_not(tmp_path) -> None:
    path, _ = save_network(tmp_path, {"output0": [4 + NUM_CLASSES + 6, 84]})
    checkpoint = described(path, task="pose", kpt_shape="[3, 2]", names=NAMES, stride="32")
    read = read_card(checkpoint)
    assert read.card.head["columns_behind"] == 6
    assert read.card.labels == ["bolt", "nut", "washer"]
    fields = [name for name in read.sources if name.startswith("preprocess.")]
    assert fields
    assert {read.sources[name] for name in fields} == {Source.METADATA}


def test_without_metadata_the_preprocessing_is_a_guess(tmp_path) -> None:
    path, _ = save_network(tmp_path, heads_with(0), behind(0))
    assert read_card(load_checkpoint(str(path))).sources["preprocess.resize"] is Source.GUESS


@pytest.mark.parametrize(
    ("columns", "masks", "metadata", "words"),
    [
        (1, False, {}, "obb: the column behind the classes is the angle"),
        (1, False, {"task": "obb", "names": NAMES}, "Ultralytics obb: a network for rotated boxes"),
        (0, False, {"task": "classify", "names": NAMES}, "Ultralytics classify: a network for one class"),
        (0, False, {"task": "depth", "names": NAMES}, "Ultralytics depth: a network for the task 'depth'"),
        (5, False, {}, "3 of class scores and 5 others"),
        (6, False, {"task": "pose", "kpt_shape": "[17, 3]", "names": NAMES}, "other outputs 51 are mask"),
        (6, False, {"task": "detect", "names": NAMES}, "other outputs 0 are mask"),
    ],
)
def test_what_is_no_upright_box_is_refused_by_name(tmp_path, columns, masks, metadata, words) -> None:
    path, _ = save_network(tmp_path, heads_with(columns, masks=masks), behind(columns, masks=masks))
    with pytest.raises(BuildError, match="upright boxes|family generic") as caught:
        infer_card(described(path, **metadata))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_card_of_the_generic_family_reads_what_is_refused(tmp_path) -> None:
    path, _ = save_network(tmp_path, heads_with(1), behind(1))
    head = {
        **{"anchors": 84, "boxes": "output0", "scores": "output0", "channels_first": True},
        **{"boxes_columns": [0, 4], "scores_columns": [4, 7], "box_coding": "cxcywh", "units": "pixels"},
        "activation": "none",
    }
    card = {"family": "generic", "preprocess": {"resize": "stretch"}, "head": head, **LABELS}
    (tmp_path / "said.json").write_text(json.dumps(card))
    checkpoint = described(path, task="obb", names=NAMES)
    assert infer_card(checkpoint, said=tmp_path / "said.json").family == "generic"


def placed(form: str, *, unit: float = 1.0) -> Tail:
    """Boxes around their cells, as cx, cy, w, h or as corners, and classes."""
    tail = Tail()
    grids = [
        ((x + 0.5) * stride, (y + 0.5) * stride)
        for stride in STRIDES
        for y in range(SIDE_PX // stride)
        for x in range(SIDE_PX // stride)
    ]
    centers = np.array(grids, np.float32).T[None] * unit
    sizes = np.full_like(centers, 4 * unit)
    base = [centers, sizes] if form == "cxcywh" else [centers - sizes, centers + sizes]
    moved = tail.node("Mul", ["box", tail.constant("little", np.float32(0.01 * unit))], "moved")
    box = tail.node("Add", [moved, tail.constant("base", np.concatenate(base, 1))], "placed_box")
    score = tail.node("Sigmoid", ["class"], "score")
    tail.output(tail.node("Concat", [box, score], "output0", axis=1), [4 + NUM_CLASSES, 84])
    return tail


@pytest.mark.parametrize("form", ["cxcywh", "xyxy"])
def test_values_tell_corners_from_centres(tmp_path, form) -> None:
    path, _ = save_network(tmp_path, SPLIT, placed(form))
    read = read_card(load_checkpoint(str(path)))
    assert read.card.head["boxes"] == form
    assert read.sources["head.boxes"] is Source.GRAPH


def test_boxes_in_shares_are_refused(tmp_path) -> None:
    path, _ = save_network(tmp_path, SPLIT, placed("cxcywh", unit=1 / SIDE_PX))
    with pytest.raises(BuildError, match="its boxes are shares of the input"):
        infer_card(load_checkpoint(str(path)))


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_corners(tmp_path_factory, seed) -> None:
    folder, card = tmp_path_factory.mktemp("net"), {"head": {"boxes": "xyxy"}}
    assert_decodes(
        folder,
        DECODED,
        lambda heads: (heads["output0"][:4].T, heads["output0"][4:].T),
        family="yolov8",
        batch=2,
        seed=seed,
        card=card,
    )


def from_distances(*, corners: bool) -> Tail:
    """Distances to corners, or to centre and size (ultralytics/utils/tal.py, dist2bbox), times the stride."""
    tail = Tail()
    sizes, axis = tail.constant("halves", [2, 2]), 1
    tail.node("Split", ["box", sizes], "left_top", "right_bottom", axis=axis)
    tail.constant("cells", np.random.default_rng(0).uniform(0, 8, (1, 2, 84)).astype(np.float32))
    low = tail.node("Sub", ["cells", "left_top"], "low")
    high = tail.node("Add", ["cells", "right_bottom"], "high")
    parts = [low, high]
    if not corners:
        both = tail.node("Add", [low, high], "both")
        half = tail.constant("two", np.float32(2))
        parts = [tail.node("Div", [both, half], "middle"), tail.node("Sub", [high, low], "size")]
    joined = tail.node("Concat", parts, "joined_box", axis=axis)
    scaled = tail.node("Mul", [joined, tail.constant("strides", np.full((1, 84), 8, np.float32))], "scaled")
    score = tail.node("Sigmoid", ["class"], "score")
    tail.output(tail.node("Concat", [scaled, score], "output0", axis=axis), [4 + NUM_CLASSES, 84])
    return tail


def from_distances_formula(heads):
    cells = np.random.default_rng(0).uniform(0, 8, (1, 2, 84)).astype(np.float32)[0]
    boxes = np.concatenate([cells - heads["box"][:2], cells + heads["box"][2:]]) * 8
    return boxes.T, sigmoid(heads["class"]).T


@pytest.mark.parametrize("corners", [True, False])
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_the_graph_tells_corners_from_centres_without_training(tmp_path_factory, corners, seed) -> None:
    folder, tail = tmp_path_factory.mktemp("net"), from_distances(corners=corners)
    assert_decodes(folder, SPLIT, from_distances_formula, family="yolov8", batch=2, seed=seed, tail=tail)
    read = read_card(load_checkpoint(str(folder / "net.onnx")))
    assert read.card.head["boxes"] == ("xyxy" if corners else "cxcywh")
    assert read.sources["head.boxes"] is Source.GRAPH


def test_where_nothing_tells_it_is_a_guess(tmp_path) -> None:
    path, _ = save_network(tmp_path, DECODED)
    assert read_card(load_checkpoint(str(path))).guesses["head.boxes"] == "xyxy"
