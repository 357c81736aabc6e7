"""Explicit casts, and what stays in fp32."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from detserve_builder.graph.layers import OWN_PREFIX
from detserve_builder.graph.session import open_session
from detserve_builder.precision.sensitivity import probe
from detserve_builder.quantise.calibration import calibration_folder
from detserve_builder.quantise.fp16 import convertible_nodes, half_nodes, to_half
from detserve_builder.quantise.int8 import measured_tensors
from detserve_builder.quantise.statistics import measure
from tests.builder.precision.networks import prepared, write_pictures


def types_of(model) -> dict[str, int]:
    described = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    types = {info.name: info.type.tensor_type.elem_type for info in described}
    return types | {initializer.name: initializer.data_type for initializer in model.graph.initializer}


def test_the_network_is_half_and_what_detserve_added_is_not(model, statistics, float_probe) -> None:
    nodes, kept = half_nodes(model, statistics, float_probe)
    assert not kept
    made = to_half(model, nodes)
    types = types_of(made)
    for node in made.graph.node:
        given = {
            types[name] for name in node.input if types[name] in (TensorProto.FLOAT, TensorProto.FLOAT16)
        }
        if node.op_type == "Conv":
            assert given == {TensorProto.FLOAT16}
        elif node.name.startswith(OWN_PREFIX) and node.op_type != "Cast":
            assert given <= {TensorProto.FLOAT}
        assert len(given) <= 1  # strongly typed: no node mixes
    assert float_probe.harm(made) < 0.01
    assert made.ByteSize() < model.ByteSize() * 0.75


def test_boxes_are_not_rounded_to_half_pixels(model, statistics, float_probe, source) -> None:
    made = to_half(model, half_nodes(model, statistics, float_probe)[0])
    image = next(source.images())
    boxes = open_session(made).run(("boxes",), {"images": image})[0]
    assert boxes.dtype == np.float32
    assert np.abs(boxes - boxes.astype(np.float16)).max() > 0


def test_a_layer_that_overflows_stays_in_fp32(tmp_path) -> None:
    model, card = prepared(tmp_path / "net.onnx", gain=1e5)
    source = calibration_folder(write_pictures(tmp_path / "pictures", 4), card)
    nodes = convertible_nodes(model)
    statistics = measure(model, measured_tensors(model, nodes), source)
    kept = half_nodes(model, statistics, probe(model, source))[1]
    assert {"wide", "wide_silu", "depthwise"} <= {name for name, why in kept.items() if why == "overflow"}
    assert "inner" not in kept
    made = to_half(model, [name for name in nodes if name not in kept])
    assert probe(model, source).harm(made) < 0.01


@pytest.mark.parametrize("nodes", [[], ["wide"], ["head8", "head16", "head32"], ["stem_silu", "residual"]])
def test_any_choice_of_nodes_gives_a_valid_graph(model, float_probe, nodes) -> None:
    assert float_probe.harm(to_half(model, nodes)) < 0.01
