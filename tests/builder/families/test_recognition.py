"""Which family is read off a graph, and the question where two would do."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from typer.testing import CliRunner

from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.commands.inspect import app
from detserve_builder.errors import BuildError
from detserve_builder.infer_card import UNTOLD_CLASSES, families_that_fit, infer_card, read_card
from detserve_client import CardError
from tests.builder.families.harness import Tail, save_network
from tests.shared_data import FASTESTDET, YOLOX, needs_shared

SIDES = {8: 8, 16: 4, 32: 2}
ANCHORS = {"head": {"anchors_wh_px": [[[10, 13], [16, 30], [33, 23]]] * 3}}
LABELS = {"labels": ["a", "b", "c"]}


DETR = {"logits": [20, 92], "pred_boxes": [20, 4]}


@dataclass(frozen=True)
class Case:
    """A network's outputs, what the user says, and what is read off the graph."""

    family: str
    heads: dict[str, list[int]]
    tail: Tail | None = None
    said: dict[str, Any] = field(default_factory=dict)
    head: dict[str, Any] = field(default_factory=dict)
    num_labels: int = 3
    suppressed: bool = False  # of a family that otherwise needs no suppression


def maps(channels: int) -> dict[str, list[int]]:
    return {f"map_{stride}": [channels, side, side] for stride, side in SIDES.items()}


def pairs(**channels: int) -> dict[str, list[int]]:
    return {
        f"{name}_{stride}": [count, side, side]
        for stride, side in SIDES.items()
        for name, count in channels.items()
    }


def joined_pairs(first: str, second: str, channels: int) -> Tail:
    tail = Tail()
    for stride, side in SIDES.items():
        tail.node("Concat", [f"{first}_{stride}", f"{second}_{stride}"], f"map_{stride}", axis=1)
        tail.output(f"map_{stride}", [channels, side, side])
    return tail


def convolved(channels: int) -> Tail:
    tail = Tail()
    weight = tail.constant("weight", np.ones((channels, channels, 1, 1), np.float32))
    for stride, side in SIDES.items():
        tail.node("Conv", [f"map_{stride}", weight], f"convolved_{stride}", kernel_shape=[1, 1])
        tail.output(f"convolved_{stride}", [channels, side, side])
    return tail


def activated(name: str, shape: list[int], **beside: list[int]) -> Tail:
    tail = Tail()
    for other, other_shape in beside.items():
        tail.output(other, other_shape)
    tail.output(tail.node("Sigmoid", [name], f"{name}_activated"), shape)
    return tail


def three_levels_of_nanodet() -> Tail:
    tail = Tail()
    for stride, side in SIDES.items():
        tail.node("Concat", [f"class_{stride}", f"box_{stride}"], f"level_{stride}", axis=1)
        shape = tail.constant(f"shape_{stride}", [1, 35, side * side])
        tail.node("Reshape", [f"level_{stride}", shape], f"flat_{stride}")
    tail.node("Concat", [f"flat_{stride}" for stride in SIDES], "levels", axis=2)
    tail.output(tail.node("Transpose", ["levels"], "output", perm=[0, 2, 1]), [84, 35])
    return tail


def top_k_of_yolov10() -> Tail:
    """The class is the index modulo C."""
    tail = Tail()
    tail.node("TopK", ["all_scores", tail.constant("k", [20])], "best", "index", axis=1)
    tail.node("Mod", ["index", tail.constant("num_classes", 3)], "class_index")
    tail.node("Cast", ["class_index"], "class", to=TensorProto.FLOAT)
    axis = tail.constant("axis", [2])
    columns = [tail.node("Unsqueeze", [name, axis], f"{name}_column") for name in ("best", "class")]
    tail.output(tail.node("Concat", ["box", *columns], "output0", axis=2), [20, 6])
    return tail


def query_selection() -> Tail:
    """RT-DETR takes its queries by TopK, and scores with sigmoid."""
    tail = Tail()
    tail.node("TopK", ["all_queries", tail.constant("k", [20])], "queries", "index", axis=1)
    axis = tail.constant("axis", [2])
    tail.node("Add", ["logits_raw", tail.node("Unsqueeze", ["queries", axis], "column")], "logits")
    tail.node("Sigmoid", ["boxes_raw"], "pred_boxes")
    tail.output("logits", [20, 3])
    tail.output("pred_boxes", [20, 4])
    return tail


def own_export_of_rtdetr() -> Tail:
    tail = Tail()
    tail.input("orig_target_sizes", [1, 2], TensorProto.INT64)
    sizes = tail.node("Cast", ["orig_target_sizes"], "sizes", to=TensorProto.FLOAT)
    tail.node("Concat", [sizes, sizes], "sizes_twice", axis=1)
    tail.node("Mul", ["boxes_raw", "sizes_twice"], "boxes")
    tail.node("Cast", ["labels_raw"], "labels", to=TensorProto.INT64)
    tail.output("labels", [20], TensorProto.INT64)
    tail.output("boxes", [20, 4])
    tail.output("scores", [20])
    return tail


def fastestdet() -> Tail:
    tail = Tail()
    tail.node("Concat", [tail.node("Sigmoid", ["object"], "activated"), "rest"], "output", axis=1)
    tail.output("output", [8, 4, 4])
    return tail


def behind_classes(columns: int, *, first: bool = False) -> Tail:
    """YOLOv8's boxes and sigmoids with other columns behind; ``first`` says that anchors come first."""
    tail = Tail()
    score = tail.node("Sigmoid", ["class"], "score")
    joined = tail.node("Concat", ["box", score, "others"], "joined", axis=1)
    if first:
        tail.output(tail.node("Transpose", [joined], "turned", perm=[0, 2, 1]), [84, 7 + columns])
    else:
        tail.output(joined, [7 + columns, 84])
    return tail


def deepstream() -> Tail:
    tail = Tail()
    number = tail.node("ArgMax", ["class"], "number", axis=2, keepdims=1)
    parts = ["box", "best", tail.node("Cast", [number], "label", to=TensorProto.FLOAT)]
    tail.output(tail.node("Concat", parts, "output", axis=2), [84, 6])
    return tail


def faces(per_cell: int, **columns: int) -> dict[str, list[int]]:
    return {
        f"{name}_{stride}": [per_cell * side * side, count]
        for name, count in columns.items()
        for stride, side in SIDES.items()
    }


def landmarks_between() -> Tail:
    """YOLOv5-face's yolo.py with export_cat: sigmoids, then cut into box, objectness, landmarks, class."""
    tail = Tail()
    scores = [tail.node("Sigmoid", [name], f"{name}_activated") for name in ("box_and_object", "class")]
    rows = tail.node("Concat", [scores[0], "landmarks", scores[1]], "rows", axis=2)
    rows = tail.node("Add", [rows, tail.constant("zero", np.zeros((1, 252, 16), np.float32))], "sum")
    axis, two = tail.constant("columns", [2]), tail.constant("two", np.float32(2))
    parts = []
    for start, end in [(0, 2), (2, 4), (4, 5), *((start, start + 2) for start in range(5, 15, 2)), (15, 16)]:
        limits = [tail.constant(f"{name}_{start}", [at]) for name, at in (("from", start), ("to", end))]
        part = tail.node("Slice", [rows, *limits, axis], f"part_{start}")
        is_score = start in (4, 15)
        parts.append(part if is_score else tail.node("Mul", [part, two], f"scaled_{start}"))
    tail.output(tail.node("Concat", parts, "output", axis=2), [252, 16])
    return tail


P6, P2 = [8, 16, 32, 64], [4, 8, 16, 32]
USUAL = [8, 16, 32]
CASES = {
    "YOLOX": Case("yolox", {"output": [84, 8]}, head={"strides": USUAL}),
    "YOLOv5": Case("yolov5", {"output": [252, 8]}, head={"strides": USUAL}),
    "YOLOv5 P6": Case("yolov5", {"output": [255, 8]}, head={"strides": P6}),
    "YOLOv5 raw": Case(
        "yolov5",
        {f"map_{stride}": [3, side, side, 8] for stride, side in SIDES.items()},
        said=ANCHORS,
        head={"sigmoid_in_graph": False},
    ),
    "YOLOv5 raw, named": Case("yolov5", maps(24), said={"family": "yolov5", **ANCHORS}),
    "YOLOv3, named": Case("yolov3", maps(24), said={"family": "yolov3", **ANCHORS}),
    "YOLOv8": Case("yolov8", {"output0": [7, 84]}, head={"strides": USUAL}),
    "YOLOv8 P6": Case("yolov8", {"output0": [7, 85]}, head={"strides": P6}),
    "YOLOv8 P2": Case("yolov8", {"output0": [7, 340]}, head={"strides": P2}),
    "YOLOv8 raw": Case(
        "yolov8", pairs(box=64, **{"class": 3}), joined_pairs("box", "class", 67), head={"reg_max": 16}
    ),
    "YOLOv8 pose": Case(
        "yolov8",
        {"box": [4, 84], "class": [3, 84], "others": [6, 84]},
        behind_classes(6),
        head={"columns_behind": 6},
    ),
    "YOLOv8 pose, anchors first": Case(
        "yolov8",
        {"box": [4, 84], "class": [3, 84], "others": [6, 84]},
        behind_classes(6, first=True),
        head={"columns_behind": 6},
    ),
    "DeepStream": Case(
        "end_to_end",
        {"box": [84, 4], "best": [84, 1], "class": [84, 3]},
        deepstream(),
        head={"detections": 84},
        suppressed=True,
    ),
    "end-to-end": Case("end_to_end", {"output0": [30, 6]}, said=LABELS, head={"detections": 30}),
    "YOLOv10": Case(
        "end_to_end", {"all_scores": [252], "box": [20, 4]}, top_k_of_yolov10(), head={"detections": 20}
    ),
    "NanoDet-Plus": Case(
        "nanodet", {"output": [85, 35]}, head={"strides": P6, "cell_offset": 0, "sigmoid_in_graph": False}
    ),
    "NanoDet": Case("nanodet", pairs(cls=3, dis=32), head={"strides": USUAL, "cell_offset": 0.5}),
    "NanoDet, three levels joined": Case(
        "nanodet", pairs(box=32, **{"class": 3}), three_levels_of_nanodet(), head={"cell_offset": 0.5}
    ),
    "YOLOv5 of 11 classes": Case("yolov5", {"output": [252, 16]}, num_labels=11),
    "YOLOv5-face": Case(
        "yolov5_face",
        {"box_and_object": [252, 5], "landmarks": [252, 10], "class": [252, 1]},
        landmarks_between(),
        head={"objectness_column": 4, "scores_columns": [15, 16]},
        num_labels=1,
    ),
    "YuNet": Case(
        "yunet",
        faces(1, cls=1, obj=1, bbox=4, kps=10),
        head={"objectness": ["obj_8", "obj_16", "obj_32"], "activation": "sigmoid"},
        num_labels=1,
    ),
    "SCRFD": Case("scrfd", faces(2, score=1, bbox=4, kps=10), head={"anchors": 168}, num_labels=1),
    "RetinaFace": Case(
        "retinaface",
        {"loc": [168, 4], "conf": [168, 2], "landms": [168, 10]},
        head={"boxes": "loc", "background_column": 0},
        num_labels=1,
    ),
    "FastestDet": Case(
        "fastestdet", {"object": [1, 4, 4], "rest": [7, 4, 4]}, fastestdet(), head={"stride": 16}
    ),
    "DETR": Case(
        "detr",
        {"logits": [20, 92], "pred_boxes": [20, 4]},
        head={"queries": 20, "scores": "softmax"},
        num_labels=80,
    ),
    "DETR with other names": Case(
        "detr",
        {"out": [20, 92], "box": [20, 4]},
        activated("box", [20, 4], out=[20, 92]),
        num_labels=80,
    ),
    "RT-DETR": Case(
        "detr",
        {"all_queries": [50], "logits_raw": [20, 3], "boxes_raw": [20, 4]},
        query_selection(),
        head={"scores": "sigmoid"},
    ),
    "RT-DETR's own export": Case(
        "detr",
        {"labels_raw": [20], "boxes_raw": [20, 4], "scores": [20]},
        own_export_of_rtdetr(),
        said=LABELS,
        head={"queries": 20, "scores": "decoded"},
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_graph_names_the_family(tmp_path, case: Case) -> None:
    network, _ = save_network(tmp_path, case.heads, case.tail)
    (tmp_path / "said.json").write_text(json.dumps(case.said))
    card = infer_card(load_checkpoint(str(network)), said=tmp_path / "said.json")
    assert card.family == case.family
    assert {name: card.head[name] for name in case.head} == case.head
    assert len(card.labels) == case.num_labels
    assert (card.thresholds.iou == 1.0) == (case.family in ("end_to_end", "detr") and not case.suppressed)
    shown = CliRunner().invoke(app, [str(network), "--card", str(tmp_path / "said.json")])
    assert shown.exception is None
    assert case.family in shown.stdout


@pytest.mark.parametrize(
    ("heads", "tail", "names"),
    [
        (maps(24), None, "yolov3 and yolov5"),
        (maps(69), None, "yolov3 and yolov5 and yolov8"),
        (maps(69), convolved(69), "yolov3 and yolov5"),  # YOLOv8 joins two convolutions
    ],
)
def test_two_readings_are_a_question(tmp_path, heads, tail, names) -> None:
    network, _ = save_network(tmp_path, heads, tail)
    with pytest.raises(CardError, match=f"fits {names}; say which in the card's field family"):
        infer_card(load_checkpoint(str(network)))


@pytest.mark.parametrize(
    "heads",
    [
        {"output": [85, 8]},  # cells of four strides, but no distributions
        {"output": [100, 8]},  # neither anchors nor rows of six
        {"scores": [84, 5], "boxes": [84, 4]},  # an SSD's pair, no logits and no sigmoid
        {"logits": [20, 4]},
        {"map": [7, 4, 4]},
        maps(5),
        {name: shape for name, shape in maps(24).items() if name != "map_16"} | {"odd": [24, 5, 5]},
    ],
)
def test_what_is_none_of_these(tmp_path, heads) -> None:
    network, _ = save_network(tmp_path, heads)
    with pytest.raises(BuildError, match="no known detector"):
        infer_card(load_checkpoint(str(network)))


@pytest.mark.parametrize(
    ("heads", "tail", "said", "words"),
    [
        (maps(24), None, {"family": "yolov5"}, "head.anchors_wh_px: missing"),
        ({"output0": [30, 6]}, None, {"head": {"detections": 31}, **LABELS}, "output0 has 30"),
        ({"output0": [7, 84]}, None, {"head": {"strides": [8, 16]}}, "gives 80 anchors"),
        (
            {"output0": [7, 84]},
            None,
            {"labels": ["a"]},
            "labels: got 1, but the graph",
        ),
        (
            {"output": [85, 35]},
            None,
            {"head": {"reg_max": 8}},
            "head.reg_max: the boxes would take 36 columns",
        ),
        (DETR, None, {"head": {"class_columns": None, "scores": "sigmoid"}}, "logits has 92 classes"),
        (DETR, None, {"head": {"class_columns": [1, 2]}}, "labels: got 80, but head.class_columns lists 2"),
        (DETR, None, {"head": {"class_columns": [91]}, "labels": ["a"]}, "classes in columns 0 to 90"),
        (
            pairs(cls=3, dis=32),
            None,
            {"head": {"strides": [8, 16, 64]}},
            "stride 64 the graph has no pair",
        ),
    ],
)
def test_what_is_missing_or_wrong_is_named(tmp_path, heads, tail, said, words) -> None:
    network, _ = save_network(tmp_path, heads, tail)
    (tmp_path / "said.json").write_text(json.dumps(said))
    shown = CliRunner().invoke(app, [str(network), "--card", str(tmp_path / "said.json")])
    assert isinstance(shown.exception, CardError)
    assert words in str(shown.exception)
    assert "\n" not in str(shown.exception)


def test_a_network_of_any_size_is_told_so(tmp_path) -> None:
    network, _ = save_network(tmp_path, {"output0": [7, 84]})
    model = onnx.load(network)
    for dim, symbol in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], ("h", "w"), strict=True):
        dim.dim_param = symbol
    onnx.save(model, network)
    with pytest.raises(
        BuildError, match=r"the input images FLOAT \[1,3,h,w\] is not fixed, and nothing beside it says one"
    ):
        infer_card(load_checkpoint(str(network)))


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        ("{0: 'cat', 1: 'dog', 2: 'owl'}", ["cat", "dog", "owl"]),
        ("['cat', 'dog', 'owl']", ["cat", "dog", "owl"]),
        ("{0: '0', 1: '1', 2: '2'}", ["class_0", "class_1", "class_2"]),
        ("__import__('os')", ["class_0", "class_1", "class_2"]),
        ("{1: 'dog'}", ["class_0", "class_1", "class_2"]),
    ],
)
def test_labels_are_read_off_the_metadata(tmp_path, names, labels) -> None:
    network, _ = save_network(tmp_path, {"output0": [7, 84]})
    model = onnx.load(network)
    model.metadata_props.add(key="names", value=names)
    onnx.save(model, network)
    assert infer_card(load_checkpoint(str(network))).labels == labels


def test_labels_that_rapidai_wrote(tmp_path) -> None:
    network, _ = save_network(tmp_path, {"output0": [7, 84]})
    model = onnx.load(network)
    model.metadata_props.add(key="character", value="text\ntitle\nfigure")
    onnx.save(model, network)
    assert infer_card(load_checkpoint(str(network))).labels == ["text", "title", "figure"]


@needs_shared
@pytest.mark.parametrize(("path", "family"), [(YOLOX, "yolox"), (FASTESTDET, "fastestdet")])
def test_real_detectors_fit_one_family(path, family) -> None:
    assert [family.name for family, _ in families_that_fit(load_checkpoint(str(path)))] == [family]


def test_classes_that_nobody_counted_are_numbered_and_that_is_a_guess(tmp_path) -> None:
    network, _ = save_network(tmp_path, {"output0": [30, 6]})
    read = read_card(load_checkpoint(str(network)))
    assert (read.card.labels[0], len(read.card.labels)) == ("class_0", UNTOLD_CLASSES)
    assert "does not say how many classes there are" in read.guesses["labels"]
