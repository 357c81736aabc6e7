"""SiLU as a polynomial: as near as it says, at every magnitude, and nothing else changes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from detserve_builder.graph.layers import OWN_PREFIX
from detserve_builder.graph.session import open_session
from detserve_builder.mixing.silu import with_polynomial_silu

LARGEST_ERROR = 0.0034


def network(*nodes: onnx.NodeProto, outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("u", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in outputs],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


SIGMOID = helper.make_node("Sigmoid", ["u"], ["s"], "sigmoid")


@pytest.mark.parametrize("inputs", [("u", "s"), ("s", "u")])
def test_it_is_as_near_as_it_says_and_exact_far_out(inputs: tuple[str, str]) -> None:
    changed, count = with_polynomial_silu(network(SIGMOID, helper.make_node("Mul", inputs, ["y"], "silu")))
    x = np.concatenate([np.linspace(-20, 20, 100_001), [-1e30, 1e30, np.inf, 0]]).astype(np.float32)
    (found,) = open_session(changed).run(None, {"u": x})
    exact = x[:-3].astype(np.float64) / (1 + np.exp(-np.maximum(x[:-3].astype(np.float64), -700)))
    assert count == 1
    assert not {node.op_type for node in changed.graph.node} & {"Sigmoid", "Exp", "Div"}
    assert np.abs(found[:-3] - exact).max() == pytest.approx(LARGEST_ERROR, abs=1e-4)
    np.testing.assert_array_equal(found[-3:], x[-3:])
    assert not found[x < -9.1].any()


@pytest.mark.parametrize(
    ("other", "outputs"),
    [
        (helper.make_node("Mul", ["u", "u"], ["y"], "square"), ("y",)),
        (helper.make_node("Mul", ["s", "s"], ["y"], "square"), ("y",)),
        (helper.make_node("Mul", ["u", "s"], ["y"], "silu"), ("y", "s")),  # the sigmoid is wanted too
        (helper.make_node("Mul", ["u", "s"], ["y"], f"{OWN_PREFIX}silu"), ("y",)),
    ],
)
def test_what_is_no_silu_of_the_network_stays(other: onnx.NodeProto, outputs: tuple[str, ...]) -> None:
    model = network(SIGMOID, other, outputs=outputs)
    changed, count = with_polynomial_silu(model)
    assert count == 0
    assert changed == model


def test_every_silu_of_a_detector_and_the_model_given_is_left_as_it_is(model, float_probe) -> None:
    before = model.SerializeToString(deterministic=True)
    changed, count = with_polynomial_silu(model)
    assert model.SerializeToString(deterministic=True) == before
    assert count == sum(node.op_type == "Sigmoid" and "_" in node.name for node in model.graph.node) == 6
    assert len({node.name for node in changed.graph.node}) == len(changed.graph.node)
    assert 0 < float_probe.harm(changed) < 0.02
