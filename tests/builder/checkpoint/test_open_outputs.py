"""Sizes that the file leaves open are measured, where a network of that size has only one answer."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.errors import BuildError
from detserve_builder.preparation.batch import check_batch
from tests.builder.tiny_networks import pictures, save_linear_network


def with_open_outputs(path: Path) -> Path:
    """Shapes written as PyTorch writes those it could not follow; the Reshape hides them from inference."""
    save_linear_network(path, {"output": [84, 8]}, batch="batch")
    model = onnx.load(path)
    reshape = next(node for node in model.graph.node if node.name == "output_reshape")
    computed = helper.make_node("Add", [reshape.input[1], "none"], ["computed_shape"], "compute")
    zero = helper.make_node("Sub", ["measured", "measured"], ["none"], "nothing")
    shape = helper.make_node("Shape", ["features"], ["features_shape"])
    summed = helper.make_node("ReduceProd", ["features_shape"], ["measured"], keepdims=1)
    reshape.input[1] = "computed_shape"
    position = list(model.graph.node).index(reshape)
    for node in (computed, zero, summed, shape):
        model.graph.node.insert(position, node)
    dims = model.graph.output[0].type.tensor_type.shape.dim
    dims[1].dim_param, dims[2].dim_param = "anchors", "fields"
    onnx.save(model, path)
    return path


def test_open_sizes_are_measured_and_the_batch_stays_open(tmp_path) -> None:
    checkpoint = load_checkpoint(str(with_open_outputs(tmp_path / "net.onnx")))
    assert checkpoint.outputs[0].shape == ("batch", 84, 8)


def test_rows_that_depend_on_the_picture_stay_open(tmp_path) -> None:
    path = with_open_outputs(tmp_path / "net.onnx")
    model = onnx.load(path)
    model.graph.node.append(helper.make_node("NonZero", ["features"], ["where"], "rows"))
    onnx.save(model, path)
    assert load_checkpoint(str(path)).outputs[0].shape == ("batch", "anchors", "fields")


def test_a_network_without_an_implementation_is_one_sentence() -> None:
    nodes = [
        helper.make_node("Cast", ["images"], ["double"], to=TensorProto.DOUBLE),
        helper.make_node("HardSwish", ["double"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 64, 64, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.DOUBLE, ["N", 64, 64, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(BuildError, match="ONNX Runtime cannot run this graph: Could not find"):
        check_batch(model, pictures(2))
