"""The batch is followed through what transformers do with a single picture's shapes and constants."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from detserve_builder.preparation.batch import NotBatchable
from detserve_builder.preparation.batch_axis import Place, free_batch_along_axes, relocated, shapes_of

ROWS, WIDTH = 6, 8  # of the tensor "x" [1,6,8] that each network below begins with
RNG = np.random.default_rng(0)


def constant(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


HEADS = {
    **{f"{name}_weight": constant(WIDTH, WIDTH) for name in ("q", "k", "v")},
    "rows_first": np.array([ROWS, 1, WIDTH]),
    "heads": np.array([ROWS, 2, 4]),
    "joined": np.array([ROWS, WIDTH]),
    "one": np.array([1, ROWS, WIDTH]),
}


def head(name: str, perm: list[int]) -> list[tuple]:
    return [
        ("MatMul", ["t", f"{name}_weight"], [f"{name}_all"], {}),
        ("Reshape", [f"{name}_all", "heads"], [f"{name}_heads"], {}),
        ("Transpose", [f"{name}_heads"], [name], {"perm": perm}),
    ]


ATTENTION = [
    *(*head("q", [1, 0, 2]), *head("k", [1, 2, 0]), *head("v", [1, 0, 2])),
    ("MatMul", ["q", "k"], ["a"], {}),
    ("Softmax", ["a"], ["p"], {"axis": -1}),
    ("MatMul", ["p", "v"], ["o"], {}),
    ("Transpose", ["o"], ["o_rows"], {"perm": [1, 0, 2]}),
    ("Reshape", ["o_rows", "joined"], ["o_joined"], {}),
]
# Nodes from x to y, both [1,6,8], and their constants.
CASES = {
    "attention over rows first": (
        [
            ("Transpose", ["x"], ["t"], {"perm": [1, 0, 2]}),
            *ATTENTION,
            ("Reshape", ["o_joined", "rows_first"], ["u"], {}),
            ("Transpose", ["u"], ["y"], {"perm": [1, 0, 2]}),
        ],
        HEADS,
    ),
    "the same, its transpositions of one picture folded away": (
        [
            ("Reshape", ["x", "joined"], ["t"], {}),
            *ATTENTION,
            ("Reshape", ["o_joined", "one"], ["u"], {}),
            ("Add", ["u", "x"], ["y"], {}),
        ],
        HEADS,
    ),
    "a class token": (
        [
            ("Concat", ["token", "x"], ["longer"], {"axis": 1}),
            ("Mul", ["longer", "positions"], ["z"], {}),
            ("Slice", ["z", "first", "end", "rows"], ["y"], {}),
        ],
        {
            **{"token": constant(1, 1, WIDTH), "positions": constant(1, ROWS + 1, WIDTH)},
            **{"first": np.array([1]), "end": np.array([99]), "rows": np.array([1])},
        },
    ),
    "heads with constants of their own": (
        [
            ("Reshape", ["x", "split"], ["h"], {}),
            ("Transpose", ["h"], ["hr"], {"perm": [0, 2, 1, 3]}),
            ("Reshape", ["hr", "heads_first"], ["hj"], {}),
            ("Add", ["hj", "bias"], ["hb"], {}),
            ("MatMul", ["hb", "weight"], ["hm"], {}),
            ("Reshape", ["hm", "apart"], ["back"], {}),
            ("Transpose", ["back"], ["backt"], {"perm": [0, 2, 1, 3]}),
            ("Reshape", ["backt", "whole"], ["y"], {}),
        ],
        {
            **{"split": np.array([1, ROWS, 2, 4]), "heads_first": np.array([2, ROWS, 4])},
            **{"apart": np.array([1, 2, ROWS, 4]), "whole": np.array([1, ROWS, WIDTH])},
            **{"bias": constant(2, ROWS, 4), "weight": constant(2, 4, 4)},
        },
    ),
    "rows picked by rank, of all that were flattened": (
        [
            ("ReduceMax", ["x"], ["best"], {"axes": [2], "keepdims": 0}),
            ("TopK", ["best", "all"], ["ranked", "order"], {"axis": 1}),
            ("Reshape", ["order", "flat"], ["picked"], {}),
            ("Reshape", ["x", "joined"], ["rows"], {}),
            ("Gather", ["rows", "picked"], ["sorted"], {"axis": 0}),
            ("Reshape", ["sorted", "one"], ["s"], {}),
            ("GatherElements", ["table", "wide"], ["g"], {"axis": 1}),
            ("Add", ["s", "g"], ["y"], {}),
        ],
        {
            **{
                "all": np.array([ROWS]),
                "flat": np.array([-1]),
                "joined": HEADS["joined"],
                "one": HEADS["one"],
            },
            **{"table": constant(1, ROWS, WIDTH), "wide": RNG.integers(0, ROWS, (1, ROWS, WIDTH))},
        },
    ),
    "written into a part of the columns": (
        [
            ("Slice", ["x", "first", "end", "columns"], ["part"], {}),
            ("Mul", ["part", "factor"], ["scaled"], {}),
            ("Transpose", ["scaled"], ["st"], {"perm": [2, 1, 0]}),
            ("Transpose", ["x"], ["xt"], {"perm": [2, 1, 0]}),
            ("ScatterND", ["xt", "which", "st"], ["yt"], {}),
            ("Transpose", ["yt"], ["y"], {"perm": [2, 1, 0]}),
        ],
        {
            **{"first": np.array([0]), "end": np.array([2]), "columns": np.array([2])},
            **{"which": np.array([[0], [1]]), "factor": constant(1, ROWS, 2)},
        },
    ),
    "sizes that are computed, and a vector": (
        [
            ("Concat", ["zero", "one_row", "zero", "zero", "zero", "zero"], ["pads"], {"axis": 0}),
            ("Pad", ["x", "pads"], ["padded"], {}),
            ("MatMul", ["padded", "vector"], ["expected"], {}),
            ("Unsqueeze", ["expected", "last"], ["column"], {}),
            ("Slice", ["column", "one_row", "end", "rows"], ["cut"], {}),
            ("Add", ["x", "cut"], ["y"], {}),
        ],
        {
            **{"zero": np.array([0]), "one_row": np.array([1]), "rows": np.array([1])},
            **{"vector": constant(WIDTH), "last": np.array([2]), "end": np.array([99])},
        },
    ),
    "the picture taken out of its batch": (
        [
            ("Gather", ["x", "zero"], ["alone"], {"axis": 0}),
            ("Shape", ["alone"], ["size"], {}),
            ("ConstantOfShape", ["size"], ["zeros"], {}),
            ("Sub", ["alone", "zeros"], ["same"], {}),
            ("Einsum", ["same", "weight"], ["e"], {"equation": "rw,wv->rv"}),
            ("Unsqueeze", ["e", "axis"], ["y"], {}),
        ],
        {"zero": np.array(0), "axis": np.array([0]), "weight": constant(WIDTH, WIDTH)},
    ),
}


def network(steps: list[tuple], weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """images [1,3,4,4] -> y [1,6,8]."""
    weights = {**weights, "as_x": np.array([1, ROWS, WIDTH])}
    nodes = [helper.make_node("Reshape", ["images", "as_x"], ["x"])]
    nodes += [
        helper.make_node(op, given, made, f"{made[0]}_node", **attrs) for op, given, made, attrs in steps
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, ROWS, WIDTH])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def freed(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnx_graphsurgeon as gs

    graph = gs.import_onnx(model)
    free_batch_along_axes(graph, shapes_of(model))
    graph.outputs[0].shape = ["N", ROWS, WIDTH]
    batched = gs.export_onnx(graph.cleanup().toposort())
    batched.ir_version = 8
    return batched


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_pictures_together_give_what_the_file_gives_them_alone(case) -> None:
    model = network(*case)
    images = np.random.default_rng(1).normal(size=(3, 3, 4, 4)).astype(np.float32)
    (together,) = ort.InferenceSession(freed(model).SerializeToString()).run(None, {"images": images})
    alone = ort.InferenceSession(model.SerializeToString())
    for index in range(3):
        (expected,) = alone.run(None, {"images": images[index : index + 1]})
        np.testing.assert_allclose(together[[index]], expected, rtol=1e-4, atol=1e-5)


def test_an_operator_without_a_rule_is_named() -> None:
    model = network([("LpNormalization", ["x"], ["y"], {"axis": 0})], {})
    with pytest.raises(NotBatchable, match="written for one picture: LpNormalization 'y_node'"):
        freed(model)


@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_a_reshape_keeps_the_order_in_memory(data) -> None:
    """Wherever the batch is put, N pictures reshaped there are the N reshaped pictures."""
    sizes = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    target = data.draw(st.permutations(sizes + data.draw(st.lists(st.just(1), max_size=2))))
    axis = data.draw(st.integers(0, len(sizes) - 1))
    inner = data.draw(st.sampled_from([n for n in range(1, 4) if sizes[axis] % n == 0]))
    place = relocated(sizes, Place(axis, inner), target)
    if place is None:
        return
    one = np.arange(np.prod(sizes))
    pictures = [one + 1000 * index for index in range(2)]
    batch = joined([picture.reshape(sizes) for picture in pictures], Place(axis, inner))
    expected = joined([picture.reshape(target) for picture in pictures], place)
    assert np.array_equal(batch.reshape(expected.shape), expected)


def joined(pictures: list[np.ndarray], place: Place) -> np.ndarray:
    shape = pictures[0].shape
    split = [*shape[: place.axis], shape[place.axis] // place.inner, place.inner, *shape[place.axis + 1 :]]
    stacked = np.stack([picture.reshape(split) for picture in pictures], axis=place.axis + 1)
    return stacked.reshape(*shape[: place.axis], -1, *shape[place.axis + 1 :])
