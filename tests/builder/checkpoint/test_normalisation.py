"""What a network does to its picture itself is not done twice, and doubted where it is not known."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from detserve_builder.card_sources import Source
from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.infer_card import read_card
from tests.builder.tiny_networks import save_linear_network

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
PREPROCESS = {"scale": 1 / 255, "mean": (0.0,) * 3, "std": (1.0,) * 3}


def with_front(path, steps: list[tuple[str, object]]):
    """A tiny YOLOv8 with ``steps`` in front: operators with their constant, if they have one."""
    model = onnx.load(save_linear_network(path, {"output0": [7, 84]}))
    made, nodes = "given", []
    for index, (op, value) in enumerate(steps):
        inputs = [made]
        if value is not None:
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), f"front_{index}"))
            inputs.append(f"front_{index}")
        made = "images" if index == len(steps) - 1 else f"made_{index}"
        attributes = {"axis": 1} if op == "Gather" else {}
        nodes.append(helper.make_node(op, inputs, [made], f"front_node_{index}", **attributes))
    model.graph.input[0].name = "given"
    kept = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *kept])
    onnx.save(model, path)
    return path


def per_channel(values: list[float]) -> np.ndarray:
    return np.float32(values).reshape(1, 3, 1, 1)


@pytest.mark.parametrize(
    ("steps", "fields"),
    [
        ([("Div", np.float32(255))], {"scale": 1}),
        ([("Mul", np.float32(1 / 255))], {"scale": 1}),
        ([("Identity", None), ("Div", np.float32(255))], {"scale": 1}),
        ([("Sub", np.float32(127.5)), ("Div", np.float32(127.5))], {"scale": 1}),
        ([("Sub", per_channel([123.7, 116.3, 103.5]))], {"scale": 1}),
        ([("Sub", per_channel(IMAGENET[0])), ("Div", per_channel(IMAGENET[1]))], {}),
        ([("Mul", np.float32(2)), ("Sub", np.float32(1))], {}),
        ([("Mul", np.float32(255))], {}),
        ([("Add", np.float32(1)), ("Mul", np.float32(0.5))], {"mean": (0.5,) * 3, "std": (0.5,) * 3}),
    ],
)
def test_the_values_that_it_wants(tmp_path, steps, fields) -> None:
    read = read_card(load_checkpoint(str(with_front(tmp_path / "net.onnx", steps))))
    found = read.card.preprocess
    expected = PREPROCESS | fields
    assert (found.scale, found.mean, found.std) == tuple(expected.values())
    assert read.sources["preprocess.scale"] is Source.GRAPH


@pytest.mark.parametrize(
    ("steps", "scale", "guessed"),
    [
        ([("Gather", np.int64([2, 1, 0])), ("Div", np.float32(255))], 1, ["color"]),
        ([("Sqrt", None)], 1 / 255, ["color", "scale", "mean", "std"]),
    ],
)
def test_what_is_not_known_is_a_guess_whatever_the_metadata_says(tmp_path, steps, scale, guessed) -> None:
    path = with_front(tmp_path / "net.onnx", steps)
    model = onnx.load(path)
    helper.set_model_props(model, {"task": "detect", "names": "{0: 'a', 1: 'b', 2: 'c'}", "stride": "32"})
    model.producer_name = "pytorch"
    onnx.save(model, path)
    read = read_card(load_checkpoint(str(path)))
    assert read.card.preprocess.scale == scale
    for name in guessed:
        assert f"begins with {steps[0][0]}" in read.guesses[f"preprocess.{name}"]
