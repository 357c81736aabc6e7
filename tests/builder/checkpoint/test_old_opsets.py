"""An old opset is raised without changing a number; a file at the newest is read as it is."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.graph.running import run
from detserve_builder.infer_card import infer_card
from detserve_builder.preparation.prepare import prepare
from tests.builder.tiny_networks import pictures, save_linear_network

SCALES = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize(("op", "opset"), [("Upsample", 7), ("Upsample", 9), ("Resize", 10)])
def test_pixels_stay_where_an_old_resize_puts_them(tmp_path, op, opset, mode) -> None:
    path = save_linear_network(tmp_path / "net.onnx", {"output0": [7, 84]})
    model = onnx.load(path)
    model.opset_import[0].version = opset
    pool = model.graph.node[0]
    pool.output[0] = "small"
    as_attribute = opset == 7
    inputs = ["small"] if as_attribute else ["small", "scales"]
    resize = helper.make_node(op, inputs, ["large"], "resize", mode=mode)
    if as_attribute:
        resize.attribute.append(helper.make_attribute("scales", [1.0, 1.0, 2.0, 2.0]))
    else:
        model.graph.initializer.append(SCALES)
    again = helper.make_node(
        "AveragePool", ["large"], ["pooled"], "again", kernel_shape=[3, 3], strides=[2, 2]
    )
    again.attribute.append(helper.make_attribute("pads", [0, 0, 1, 1]))
    model.graph.node.insert(1, resize)
    model.graph.node.insert(2, again)
    onnx.save(model, path)
    checkpoint = load_checkpoint(str(path))
    prepare(checkpoint, infer_card(checkpoint), pictures(2))  # compares with the file itself


def test_the_newest_opset_and_its_ir_are_read(tmp_path) -> None:
    path = save_linear_network(tmp_path / "net.onnx", {"output0": [7, 84]})
    model = onnx.load(path)
    model.opset_import[0].version, model.ir_version = 28, 14
    onnx.save(model, path)
    checkpoint = load_checkpoint(str(path))
    prepared = prepare(checkpoint, infer_card(checkpoint), pictures(2))
    assert run(prepared.model, pictures(3))["boxes"].shape == (3, 84, 4)


def test_a_prepared_network_has_the_lowest_ir_that_its_opset_needs(tmp_path) -> None:
    path = save_linear_network(tmp_path / "net.onnx", {"output0": [7, 84]})
    model = onnx.load(path)
    model.ir_version = 14
    onnx.save(model, path)
    checkpoint = load_checkpoint(str(path))
    prepared = prepare(checkpoint, infer_card(checkpoint), pictures(2))
    assert (prepared.model.opset_import[0].version, prepared.model.ir_version) == (17, 8)
    assert helper.find_min_ir_version_for(list(prepared.model.opset_import)) == 8
