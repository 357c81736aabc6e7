"""The folded convolution gives what Focus and its convolution gave."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detserve_builder.preparation.focus import fold_focus

ALL = list(itertools.product((0, 1), repeat=2))


def network(order, kernel, pads, sides, *, columns_first=False, end=2**31):
    rng = np.random.default_rng(0)
    picture = gs.Variable("picture", np.float32, [1, 3, *sides])
    graph = gs.Graph(inputs=[picture], opset=13)

    def every_other(tensor, axis, start):
        constants = [np.array([value], np.int64) for value in (start, end, axis, 2)]
        made = graph.layer(op="Slice", inputs=[tensor, *constants], outputs=["slice"])[0]
        shape = list(tensor.shape)
        shape[axis] = (shape[axis] - start + 1) // 2
        made.dtype, made.shape = np.float32, shape
        return made

    parts = []
    for row, column in order:
        steps = [(2, row), (3, column)]
        tensor = picture
        for axis, start in reversed(steps) if columns_first else steps:
            tensor = every_other(tensor, axis, start)
        parts.append(tensor)
    joined = graph.layer(op="Concat", inputs=parts, outputs=["joined"], attrs={"axis": 1})[0]
    weights = rng.standard_normal((5, 3 * len(order), kernel, kernel)).astype(np.float32)
    bias = rng.standard_normal(5).astype(np.float32)
    attributes = {"kernel_shape": [kernel, kernel], "pads": pads}
    out = graph.layer(op="Conv", inputs=[joined, weights, bias], outputs=["out"], attrs=attributes)[0]
    out.dtype, out.shape = np.float32, [1, 5, None, None]
    graph.outputs = [out]
    return graph


def run(graph, picture):
    model = gs.export_onnx(graph.cleanup().toposort(), ir_version=8)
    onnx.checker.check_model(model)
    return ort.InferenceSession(model.SerializeToString()).run(None, {"picture": picture})[0]


@settings(max_examples=25, deadline=None)
@given(
    st.permutations(ALL),
    st.integers(1, 3),
    st.lists(st.integers(0, 2), min_size=4, max_size=4),
    st.tuples(st.integers(4, 9).map(lambda half: 2 * half), st.integers(4, 9).map(lambda half: 2 * half)),
    st.booleans(),
)
def test_the_same_sums(order, kernel, pads, sides, columns_first) -> None:
    graph = network(order, kernel, pads, sides, columns_first=columns_first)
    picture = np.random.default_rng(1).standard_normal((1, 3, *sides)).astype(np.float32)
    before = run(graph.copy(), picture)
    fold_focus(graph)
    after = run(graph, picture)
    assert [node.op for node in graph.nodes] == ["Conv"]
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "other",
    [
        {"order": ALL[:3]},
        {"order": [*ALL[:3], ALL[0]]},
        {"sides": (8, 9)},
        {"end": 6},
    ],
)
def test_what_is_no_focus_stays(other) -> None:
    graph = network(**{"order": ALL, "kernel": 3, "pads": [1] * 4, "sides": (8, 8), **other})
    operators = [node.op for node in graph.nodes]
    fold_focus(graph)
    assert [node.op for node in graph.nodes] == operators
