"""A prepared network that gives other numbers than the file is refused, as is what cannot be detections."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.errors import BuildError
from detserve_builder.infer_card import infer_card
from detserve_builder.preparation import prepare as preparation
from detserve_builder.preparation.prepare import prepare
from detserve_builder.preparation.proof import refuse_impossible
from tests.builder.tiny_networks import pictures, save_linear_network

HEAD = {"output0": [7, 84]}


def broken_by(change):
    """The preparation's last look at the graph, after ``change`` spoilt a weight of it."""

    def check(checkpoint, model, *, any_batch) -> None:
        for tensor in model.graph.initializer:
            if tensor.name == "project":
                tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), "project"))

    return check


def test_other_numbers_than_the_file_gives_are_refused(tmp_path, monkeypatch) -> None:
    checkpoint = load_checkpoint(str(save_linear_network(tmp_path / "net.onnx", HEAD)))
    (tmp_path / "said.json").write_text('{"preprocess": {"scale": 1}}')
    card = infer_card(checkpoint, said=tmp_path / "said.json")
    monkeypatch.setattr(preparation, "_check", broken_by(lambda weights: weights * 1.01))
    with pytest.raises(BuildError, match="opset 13 changed it: export it at opset 17") as caught:
        prepare(checkpoint, card, pictures(2))
    assert "gives other numbers than the file, boxes by up to" in str(caught.value)
    monkeypatch.setattr(preparation, "_check", broken_by(lambda weights: weights * (1 + 1e-7)))
    prepare(checkpoint, card, pictures(2))


def detector(path, boxes, scores) -> None:
    """Ultralytics' layout with the same boxes and scores for every picture."""
    columns = np.concatenate([np.asarray(boxes, np.float32), np.asarray(scores, np.float32)], axis=1)
    table = np.tile(columns, (84 // len(columns), 1)).T[None]
    zero = numpy_helper.from_array(np.zeros((1, 3, 1, 1), np.float32), "zero")
    nodes = [
        helper.make_node("Mul", ["images", "zero"], ["nothing"]),
        helper.make_node("ReduceSum", ["nothing"], ["none"], keepdims=0),
        helper.make_node("Add", ["table", "none"], ["output0"]),
    ]
    graph = helper.make_graph(
        nodes,
        "constant",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 64])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, *table.shape[1:]])],
        [zero, numpy_helper.from_array(table, "table")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


GOOD_BOXES = [[20, 20, 10, 10], [40, 30, 20, 12]]
GOOD_SCORES = [[0.9, 0.1, 0.0], [0.2, 0.7, 0.1]]


@pytest.mark.parametrize(
    ("boxes", "scores", "words"),
    [
        (GOOD_BOXES, [[3.0, -2, 0], [1, 2, 1]], "the scores run from 2 to 3, expected 0 to 1"),
        (GOOD_BOXES, [[np.inf, 0, 0], [0.2, 0.7, 0.1]], "numbers that are not finite"),
        ([[np.inf, 20, 10, 10], [40, 30, 20, 12]], GOOD_SCORES, "numbers that are not finite"),
        ([[9e3, 20, 10, 10], [40, 9e3, 20, 12]], GOOD_SCORES, r"the best boxes lie 900\d px out"),
        (
            [[0.3, 0.3, 0.1, 0.1], [0.6, 0.5, 0.3, 0.2]],
            GOOD_SCORES,
            "the boxes are shares of the picture",
        ),
    ],
)
def test_what_cannot_be_detections_is_refused(tmp_path, boxes, scores, words) -> None:
    for of_boxes, of_scores in ((GOOD_BOXES, GOOD_SCORES), (boxes, scores)):
        detector(tmp_path / "net.onnx", of_boxes, of_scores)
        checkpoint = load_checkpoint(str(tmp_path / "net.onnx"))
        card = infer_card(checkpoint)
        model = preparation._prepared_graph(checkpoint, card, None).model
        if of_boxes is GOOD_BOXES and of_scores is GOOD_SCORES:
            refuse_impossible(checkpoint, card, model, pictures(2))
            continue
        with pytest.raises(BuildError, match=words) as caught:
            refuse_impossible(checkpoint, card, model, pictures(2))
        assert "read as yolov8" in str(caught.value)
