"""Face detectors: the head of each, cell by cell in numpy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.infer_card import infer_card
from detserve_builder.preparation.prepare import prepare
from tests.builder.families.harness import Tail, assert_decodes, assert_same_detections, save_network
from tests.builder.families.test_decoders import sigmoid
from tests.builder.tiny_networks import SIDE_PX, pictures

STRIDES = (8, 16, 32)


def cells(stride: int, per_cell: int = 1):
    """Column and row of each box of a stride's map."""
    side = SIDE_PX // stride
    return [(x, y) for y in range(side) for x in range(side) for _ in range(per_cell)]


def per_stride(per_cell: int, strides=STRIDES, **columns: int) -> dict[str, list[int]]:
    return {
        f"{name}_{stride}": [len(cells(stride, per_cell)), count]
        for name, count in columns.items()
        for stride in strides
    }


def activated(heads: dict[str, list[int]], *kinds: str) -> Tail:
    tail = Tail()
    for name, shape in heads.items():
        if name.split("_")[0] in kinds:
            name = tail.node("Sigmoid", [name], f"{name}_activated")
        tail.output(name, shape)
    return tail


@pytest.mark.parametrize("in_graph", [True, False])
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_yunet(tmp_path_factory, in_graph, seed) -> None:
    def formula(outputs):
        boxes, scores = [], []
        for stride in STRIDES:
            kinds = [outputs[f"{kind}_{stride}"] for kind in ("cls", "obj", "bbox")]
            for (x, y), cls, obj, (tx, ty, tw, th) in zip(cells(stride), *kinds, strict=True):
                cx, cy = (x + tx) * stride, (y + ty) * stride
                w, h = np.exp(tw) * stride, np.exp(th) * stride
                boxes.append((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2))
                scores.append(np.sqrt(sigmoid(cls) * sigmoid(obj)))
        return np.array(boxes), np.array(scores)

    heads = per_stride(1, cls=1, obj=1, bbox=4, kps=10)
    assert_decodes(
        tmp_path_factory.mktemp("net"),
        heads,
        formula,
        family="yunet",
        card={
            "preprocess": {"scale": 0.1}
        },  # a square root magnifies the rounding of scores of next to nothing
        batch=3,
        seed=seed,
        tail=activated(heads, "cls", "obj") if in_graph else None,
    )


def scrfd_formula(strides, per_cell):
    def formula(outputs):
        boxes, scores = [], []
        for stride in strides:
            kinds = [outputs[f"{kind}_{stride}"] for kind in ("score", "bbox")]
            for (x, y), score, (left, top, right, bottom) in zip(
                cells(stride, per_cell), *kinds, strict=True
            ):
                corner = (x - left, y - top, x + right, y + bottom)
                boxes.append([side * stride for side in corner])
                scores.append(sigmoid(score))
        return np.array(boxes), np.array(scores)

    return formula


@pytest.mark.parametrize("key_points", [{"kps": 10}, {}], ids=["kps", "no kps"])
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_scrfd(tmp_path_factory, key_points, seed) -> None:
    heads = per_stride(2, score=1, bbox=4, **key_points)
    assert_decodes(
        tmp_path_factory.mktemp("net"),
        heads,
        scrfd_formula(STRIDES, 2),
        family="scrfd",
        batch=3,
        seed=seed,
        tail=activated(heads, "score"),
    )


def save_insightface_network(path: Path) -> Path:
    """As insightface exports SCRFD: any size, the rows of all pictures together, sizes as seen at 640."""
    rng, nodes, weights, outputs = np.random.default_rng(0), [], {}, []

    def convolve(source: str, name: str, channels: tuple[int, int], side: int) -> None:
        weights[f"{name}_weight"] = rng.normal(0, 0.1, (*channels, side, side)).astype(np.float32)
        attrs = {"kernel_shape": [side] * 2, "strides": [side] * 2}
        nodes.append(helper.make_node("Conv", [source, f"{name}_weight"], [name], name, **attrs))

    for stride in STRIDES:
        convolve("input.1", f"features_{stride}", (8, 3), stride)
        for kind, columns in (("score", 1), ("bbox", 4), ("kps", 10)):
            name = f"{kind}_{stride}"
            convolve(f"features_{stride}", f"{name}_map", (2 * columns, 8), 1)
            weights[f"{name}_shape"] = np.array([-1, columns])
            nodes.append(helper.make_node("Transpose", [f"{name}_map"], [f"{name}_rows"], perm=[0, 2, 3, 1]))
            last = f"{name}_raw" if kind == "score" else name
            nodes.append(helper.make_node("Reshape", [f"{name}_rows", f"{name}_shape"], [last]))
            if kind == "score":
                nodes.append(helper.make_node("Sigmoid", [last], [name]))
            seen = [2 * (640 // stride) ** 2, columns]
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, seen))
    image = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, "h", "w"])
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "scrfd", [image], outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), path)
    return path


def test_scrfd_of_any_size_without_a_batch_dimension(tmp_path) -> None:
    network = save_insightface_network(tmp_path / "scrfd.onnx")
    said = {"input_wh": [SIDE_PX, SIDE_PX], "candidates": 168, "preprocess": {"std": [255] * 3}}
    (tmp_path / "said.json").write_text(json.dumps(said))
    checkpoint = load_checkpoint(str(network))
    card = infer_card(checkpoint, said=tmp_path / "said.json")
    assert (card.family, card.head["activation"]) == ("scrfd", "none")
    prepared = prepare(checkpoint, card, pictures(2))
    assert prepared.batch_obstacle is None
    session = ort.InferenceSession(prepared.model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(["boxes", "scores", "classes"], {"images": pictures(3)})
    original = ort.InferenceSession(network, providers=["CPUExecutionProvider"])
    names = [output.name for output in original.get_outputs()]
    for picture, boxes, scores, classes in zip(pictures(3), *found, strict=True):
        blob = ((picture - np.float32(127.5)) / np.float32(255)).transpose(2, 0, 1)[None]
        outputs = dict(zip(names, original.run(names, {"input.1": blob}), strict=True))
        outputs |= {name: np.log(x / (1 - x)) for name, x in outputs.items() if name.startswith("score")}
        expected_boxes, expected = scrfd_formula(STRIDES, 2)(outputs)
        assert_same_detections((boxes, scores, classes), (expected_boxes, expected[:, 0], expected))


def test_a_size_that_is_said_goes_before_the_files_own(tmp_path) -> None:
    network = save_insightface_network(tmp_path / "scrfd.onnx")
    model = onnx.load(network)
    helper.set_model_props(model, {"imgsz": "[640, 640]"})
    onnx.save(model, network)
    (tmp_path / "said.json").write_text(json.dumps({"input_wh": [SIDE_PX, SIDE_PX]}))
    checkpoint = load_checkpoint(str(network))
    assert infer_card(checkpoint).input_wh == (640, 640)
    card = infer_card(checkpoint, said=tmp_path / "said.json")
    assert (card.input_wh, card.head["anchors"]) == ((SIDE_PX, SIDE_PX), 168)


RETINA = {8: (16, 32), 16: (64, 128), 32: (256, 512)}


def retina_formula(outputs):
    boxes = []
    deltas = iter(outputs["loc"])
    for step, sizes in RETINA.items():
        for x, y in cells(step):
            for size in sizes:
                tx, ty, tw, th = next(deltas)
                cx, cy = (x + 0.5) * step + 0.1 * tx * size, (y + 0.5) * step + 0.1 * ty * size
                w, h = size * np.exp(0.2 * tw), size * np.exp(0.2 * th)
                boxes.append((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2))
    exponentials = np.exp(outputs["conf"])
    return np.array(boxes), exponentials[:, 1:] / exponentials.sum(1, keepdims=True)


def retina_tail(*, joined: bool, softmax: bool) -> Tail:
    tail = Tail()
    conf = tail.node("Softmax", ["conf"], "conf_activated", axis=2) if softmax else "conf"
    if joined:
        tail.output(tail.node("Concat", ["loc", conf, "landms"], "output0", axis=-1), [168, 16])
    else:
        for name, columns in ((conf, 2), ("landms", 10), ("loc", 4)):
            tail.output(name, [168, columns])
    return tail


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("softmax", [True, False])
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_retinaface(tmp_path_factory, joined, softmax, seed) -> None:
    assert_decodes(
        tmp_path_factory.mktemp("net"),
        {"loc": [168, 4], "conf": [168, 2], "landms": [168, 10]},
        retina_formula,
        family="retinaface",
        batch=3,
        seed=seed,
        tail=retina_tail(joined=joined, softmax=softmax),
    )


def yolov5_face(classes: int) -> Tail:
    """yolo.py with export_cat: the columns are joined of box, objectness, five landmarks, classes."""
    tail = Tail()
    activated_parts = [tail.node("Sigmoid", [name], f"{name}_activated") for name in ("obj", "cls")]
    landmarks = [f"landmark_{index}" for index in range(5)]
    parts = ["xy", "wh", activated_parts[0], *landmarks, activated_parts[1]]
    tail.output(tail.node("Concat", parts, "output", axis=-1), [252, 15 + classes])
    return tail


@pytest.mark.parametrize("classes", [1, 2])
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_yolov5_face(tmp_path_factory, classes, seed) -> None:
    def formula(outputs):
        low, high = outputs["xy"] - outputs["wh"] / 2, outputs["xy"] + outputs["wh"] / 2
        return np.concatenate([low, high], 1), sigmoid(outputs["obj"]) * sigmoid(outputs["cls"])

    widths = {"xy": 2, "wh": 2, "obj": 1, "cls": classes, **{f"landmark_{index}": 2 for index in range(5)}}
    assert_decodes(
        tmp_path_factory.mktemp("net"),
        {name: [252, width] for name, width in widths.items()},
        formula,
        family="yolov5_face",
        batch=3,
        seed=seed,
        tail=yolov5_face(classes),
    )


def test_a_generic_card_says_the_same(tmp_path) -> None:
    network, _ = save_network(tmp_path, per_stride(1, cls=1, obj=1, bbox=4, kps=10))
    checkpoint = load_checkpoint(str(network))
    card = infer_card(checkpoint)
    (tmp_path / "said.json").write_text(card.model_copy(update={"family": "generic"}).to_json())
    generic = infer_card(checkpoint, said=tmp_path / "said.json")
    assert (card.family, generic.family) == ("yunet", "generic")
    models = [prepare(checkpoint, said, pictures(2)).model for said in (card, generic)]
    assert models[0].SerializeToString() == models[1].SerializeToString()


def test_what_is_guessed_can_be_said(tmp_path) -> None:
    """A card of the same family with other priors and labels."""
    heads = {"loc": [168, 4], "conf": [168, 2], "landms": [168, 10]}
    network, _ = save_network(tmp_path, heads)
    maps = [{"step_px": step, "min_sizes_px": [step, 2 * step]} for step in STRIDES]
    said = {"labels": ["plate"], "head": {"prior_grid": {"maps": maps}}}
    (tmp_path / "card.json").write_text(json.dumps(said))
    card = infer_card(load_checkpoint(str(network)))
    assert card.labels == ["plate"]
    assert card.head["prior_grid"] == {"maps": maps}
