"""What the passes make for TensorRT is accepted: by the lint, and where it is installed by the compiler."""

from __future__ import annotations

import pytest

from detserve_builder.prune.weights import prune
from detserve_builder.quantise.fp16 import convertible_nodes, to_half
from detserve_builder.quantise.int8 import Form, quantisable_nodes, quantise
from detserve_builder.quantise.ranges import Method, ranges
from detserve_builder.tensorrt.compile_gate import compile_ahead_of_time
from detserve_builder.tensorrt.lint import lint
from tests.builder.tensorrt.rtx import needs_rtx


def half(model, statistics, source):
    return to_half(model, convertible_nodes(model))


def int8(model, statistics, source):
    found = ranges(statistics, Method.MSE, symmetric=True)
    return quantise(model, found, quantisable_nodes(model, Form.TENSORRT), Form.TENSORRT)


def sparse(model, statistics, source):
    return prune(model, "2:4", quantisable_nodes(model, Form.TENSORRT), source)[0]


@pytest.mark.parametrize("made", [half, int8, sparse])
def test_the_lint_finds_nothing(model, statistics, source, made) -> None:
    assert not lint(made(model, statistics, source))


def test_the_lint_refuses_the_form_for_the_cpu(model, statistics) -> None:
    found = ranges(statistics, Method.MSE, symmetric=False)
    assert lint(quantise(model, found, quantisable_nodes(model, Form.ONNXRUNTIME), Form.ONNXRUNTIME))


@needs_rtx
@pytest.mark.parametrize("made", [half, int8, sparse])
def test_the_compiler_takes_it(model, statistics, source, made) -> None:
    compiled = compile_ahead_of_time(
        made(model, statistics, source),
        where="tiny",
        sparse_weights=made is sparse,
        compute_capabilities=["8.9"],
    ).compiled
    assert [plan.compute_capability for plan in compiled] == ["8.9"]
