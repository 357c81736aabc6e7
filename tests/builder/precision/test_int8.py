"""Q/DQ around the network's own layers, in the form each target runs."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from detserve_builder.graph.layers import OWN_PREFIX
from detserve_builder.graph.network import layers
from detserve_builder.graph.session import open_session
from detserve_builder.quantise.int8 import Form, measured_tensors, quantisable_nodes, quantise
from detserve_builder.quantise.ranges import Method, activations_of, ranges

QDQ = ("QuantizeLinear", "DequantizeLinear")


def quantised(model, statistics, form, method=Method.MSE, bits=8):
    nodes = quantisable_nodes(model, form)
    found = ranges(statistics, method, symmetric=form is Form.TENSORRT, activations=activations_of(model))
    return quantise(model, found, nodes, form, bits=bits)


def test_only_the_networks_own_layers_before_the_heads(model) -> None:
    nodes = quantisable_nodes(model, Form.ONNXRUNTIME)
    assert {"stem", "stem_silu", "wide", "depthwise", "inner", "residual", "down32_silu"} <= set(nodes)
    assert not [name for name in nodes if name.startswith(OWN_PREFIX)]
    assert not {"head8", "head16", "head32", "all", "rows", "probability"} & set(nodes)
    assert set(quantisable_nodes(model, Form.TENSORRT)) == {n for n in nodes if "_" not in n} - {"residual"}


def test_a_layer_owns_what_follows_it(model) -> None:
    groups = layers(model, quantisable_nodes(model, Form.ONNXRUNTIME))
    assert groups["inner"] == ["inner", "inner_sigmoid", "inner_silu", "residual"]
    assert list(groups) == ["stem", "wide", "depthwise", "inner", "down16", "down32"]


@pytest.mark.parametrize("form", list(Form))
def test_what_detserve_added_and_the_heads_see_no_quantised_tensor_but_through_a_layer(
    model, statistics, form
) -> None:
    made = quantised(model, statistics, form)
    before = {node.name: node for node in model.graph.node}
    heads = [n for n in made.graph.node if n.name.startswith((OWN_PREFIX, "cut_", "flat", "rows", "all"))]
    assert heads
    for node in heads:
        assert list(node.input) == list(before[node.name].input)


def test_the_cpu_form_has_unsigned_activations_and_a_scale_per_channel(model, statistics) -> None:
    made = quantised(model, statistics, Form.ONNXRUNTIME)
    constants = {initializer.name: initializer for initializer in made.graph.initializer}
    points = [constants[n.input[2]] for n in made.graph.node if n.op_type == "QuantizeLinear"]
    assert points
    assert {point.data_type for point in points} == {TensorProto.UINT8}
    assert constants["wide_weight_quantized"].data_type == TensorProto.INT8
    assert constants["wide_weight_scale"].dims == [32]


def test_the_tensorrt_form(model, statistics) -> None:
    made = quantised(model, statistics, Form.TENSORRT)
    constants = {i.name: numpy_helper.to_array(i) for i in made.graph.initializer}
    for node in made.graph.node:
        if node.op_type in QDQ:
            assert constants[node.input[2]].dtype == np.int8
            assert not constants[node.input[2]].any()
    biases = {n.input[2] for n in made.graph.node if n.op_type == "Conv"}
    assert {constants[name].dtype for name in biases} == {np.dtype(np.float32)}
    # weights stay float behind a Q/DQ pair of their own, and no layer's output is quantised
    makers = {name: node for node in made.graph.node for name in node.output}
    quantised_tensors = {n.input[0] for n in made.graph.node if n.op_type == "QuantizeLinear"}
    assert constants["wide_weight"].dtype == np.float32
    assert "wide_weight" in quantised_tensors
    assert not [name for name in quantised_tensors if name in makers and makers[name].op_type == "Conv"]


@pytest.mark.parametrize(
    ("form", "bits"), [(Form.ONNXRUNTIME, 8), (Form.TENSORRT, 8), (Form.ONNXRUNTIME, 16)]
)
def test_the_detections_stay_close_whatever_the_batch(
    model, statistics, float_probe, source, form, bits
) -> None:
    made = quantised(model, statistics, form, Method.MIN_MAX, bits)
    assert float_probe.harm(made) < 0.1
    session = open_session(made)
    images = np.concatenate(list(source.images())[:3])
    together = session.run(None, {"images": images})
    apart = [session.run(None, {"images": image[None]}) for image in images]
    for position, values in enumerate(together):
        np.testing.assert_allclose(values, np.concatenate([one[position] for one in apart]), rtol=1e-4)


def test_16_bit_activations_are_closer_than_8(model, statistics, float_probe) -> None:
    harms = [
        float_probe.harm(quantised(model, statistics, Form.ONNXRUNTIME, Method.MIN_MAX, bits))
        for bits in (8, 16)
    ]
    assert harms[1] < harms[0]


def test_the_model_given_is_left_as_it_is(model, statistics) -> None:
    before = model.SerializeToString(deterministic=True)
    one, two = (quantised(model, statistics, Form.ONNXRUNTIME).SerializeToString() for _ in range(2))
    assert model.SerializeToString(deterministic=True) == before
    assert one == two


def test_ranges_are_measured_of_float_activations_only(model) -> None:
    tensors = measured_tensors(model, quantisable_nodes(model, Form.ONNXRUNTIME))
    assert "wide_silu" in tensors
    assert not [name for name in tensors if "weight" in name or "bias" in name]
