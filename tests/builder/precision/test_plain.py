"""Whatever form the weights are in, the passes find them; what is computed stays."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from detserve_builder.graph.network import own_layers
from detserve_builder.graph.plain import plain
from detserve_builder.graph.session import open_session
from detserve_builder.quantise.fp16 import convertible_nodes, to_half
from detserve_builder.quantise.int8 import Form, measured_tensors, quantisable_nodes, quantise
from detserve_builder.quantise.ranges import Method, ranges
from detserve_builder.quantise.statistics import measure
from tests.builder.precision.quantised_networks import with_weights


def outputs(model, source) -> list[np.ndarray]:
    session = open_session(model)
    found = [session.run(None, {"images": image}) for image in source.images()]
    return [np.concatenate(one) for one in zip(*found, strict=True)]


def int8(model, source, form=Form.ONNXRUNTIME) -> onnx.ModelProto:
    nodes = quantisable_nodes(model, form)
    found = ranges(
        measure(model, measured_tensors(model, nodes), source),
        Method.MIN_MAX,
        symmetric=form is Form.TENSORRT,
    )
    return quantise(model, found, nodes, form)


@pytest.mark.parametrize("how", ["Cast", "Identity", "Transpose", "Mul"])
def test_weights_behind_a_node_are_found(model, source, how) -> None:
    before = with_weights(model, how)
    assert not own_layers(before).floats
    made = plain(before)
    assert own_layers(made).floats == own_layers(model).floats
    for one, other in zip(outputs(before, source), outputs(made, source), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_a_half_network_is_plain_in_float(model, source, float_probe) -> None:
    half = to_half(model, convertible_nodes(model))
    made = plain(half)
    types = {tensor.data_type for tensor in made.graph.initializer}
    types |= {value.type.tensor_type.elem_type for value in made.graph.value_info}
    assert TensorProto.FLOAT16 not in types
    assert float_probe.harm(made) < 0.01
    assert len(own_layers(made).floats) == len(own_layers(model).floats)
    assert float_probe.harm(int8(made, source)) < 0.1


def test_what_computes_a_weight_and_something_else_keeps_both(model, source) -> None:
    before = with_weights(model, "Identity")
    before.graph.initializer.append(numpy_helper.from_array(np.array([16, 16], np.int64), "halves"))
    identity = next(node for node in before.graph.node if node.output[0] == "wide_weight")
    identity.op_type = "Split"
    identity.input.append("halves")
    identity.output[:] = ["low", "high"]
    identity.attribute.append(helper.make_attribute("axis", 0))
    place = list(before.graph.node).index(identity) + 1
    before.graph.node.insert(
        place, helper.make_node("Concat", ["low", "high"], ["wide_weight"], "join", axis=0)
    )
    made = plain(before)
    assert not [node for node in made.graph.node if node.op_type == "Split" and "low" in node.output]
    for one, other in zip(outputs(before, source), outputs(made, source), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", list(Form))
def test_layers_that_share_a_bias_and_names_that_clash(model, source, float_probe, form) -> None:
    """ONNX Runtime's quantiser copies a shared bias under a name that another tensor has."""
    shared = onnx.ModelProto()
    shared.CopyFrom(model)
    renamed = {
        "wide_bias": "bias_",
        "depthwise_bias": "bias_",
        "inner": "bias_0",
        "wide": "wide_weight_scale",
    }
    for node in shared.graph.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
    for tensor in shared.graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    shared.graph.initializer.remove([t for t in shared.graph.initializer if t.name == "bias_"][-1])
    del shared.graph.value_info[:]
    made = plain(shared)
    biases = [node.input[2] for node in made.graph.node if node.op_type == "Conv"]
    assert len(set(biases)) == len(biases)
    floats = outputs(shared, source)
    quantised = outputs(int8(made, source, form), source)
    assert np.abs(floats[1] - quantised[1]).max() < 0.05
