"""What passes, what wins, and options that do not go together."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detserve_builder.errors import BuildError
from detserve_builder.precision.choice import place_of
from detserve_builder.precision.gate import Candidate, Gate, Measured, pareto_front
from detserve_builder.precision.request import Precision, PrecisionRequest
from detserve_builder.runtime import Runtime
from detserve_builder.triton_config import Target

FOLDER = Path("pictures")


def measured(drop: float, speedup: float | None, *, baseline: bool = False) -> Measured:
    candidate = Candidate("c", Precision.INT8, onnx.ModelProto(), {}, baseline)
    return Measured(candidate, 0.5 - drop, drop, None if speedup is None else 10 / speedup, speedup)


def test_the_fastest_of_those_that_pass() -> None:
    slow, fast, harmful = measured(0.0, 1.2), measured(0.009, 1.5), measured(0.02, 3.0)
    gate = Gate(max_ap_drop=0.01, min_speedup=1.1)
    assert gate.fastest([slow, fast, harmful]) is fast
    assert gate.fastest([measured(0.0, 1.0), harmful]) is None
    assert gate.fastest([measured(0.0, 2.0, baseline=True)]) is None


def test_where_speed_is_not_known_the_most_accurate() -> None:
    good, better = measured(0.004, None), measured(-0.001, None)
    assert Gate(0.01, 1.0).fastest([good, better, measured(0.02, None)]) is better


@given(st.lists(st.tuples(st.floats(-0.1, 0.4), st.floats(0.1, 5)), min_size=1))
def test_nothing_beats_the_pareto_front(figures) -> None:
    tried = [measured(drop, speedup) for drop, speedup in figures]
    front = pareto_front(tried)
    assert front
    for one in front:
        assert not [m for m in tried if m.ap > one.ap and m.speedup > one.speedup]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_ap_drop": 0.01}, "--max-ap-drop needs pictures to measure on"),
        ({"min_speedup": 1.5}, "--min-speedup needs pictures to measure on"),
        ({"evaluate": FOLDER}, "--evaluate needs pictures to measure on"),
        ({"images": FOLDER}, "the search is measured on pictures"),
        ({"precision": Precision.INT8}, "--precision int8 is measured on pictures"),
        ({"prune": "2:4"}, "--prune 2:4 is measured on pictures"),
        ({"prune": "3:4", "calibrate": FOLDER}, "--prune got '3:4'"),
        ({"precision": Precision.BF16, "runtime": Runtime.ONNXRUNTIME}, "ONNX Runtime has no bf16"),
        ({"precision": Precision.INT16, "runtime": Runtime.OPENVINO}, "OpenVINO computes int16 in fp32"),
    ],
)
def test_a_gate_without_a_dataset_and_other_halves_are_refused(options, sentence) -> None:
    with pytest.raises(BuildError, match=sentence):
        PrecisionRequest(**options)


@pytest.mark.parametrize(
    ("options", "target", "sentence"),
    [
        ({"precision": Precision.INT16}, Target.TENSORRT, "TensorRT has no 16-bit integers"),
        (
            {"precision": Precision.INT8, "images": FOLDER, "min_speedup": 1.0},
            Target.TENSORRT,
            "says nothing about --target tensorrt",
        ),
        ({}, Target.EMBEDDED, "--calibrate is of no use to fp32"),
        (
            {"runtime": Runtime.OPENVINO, "precision": Precision.INT8},
            Target.ONNXRUNTIME,
            "--runtime is for --target embedded, got onnxruntime",
        ),
    ],
)
def test_what_the_target_cannot_do_is_refused(options, target, sentence) -> None:
    with pytest.raises(BuildError, match=sentence):
        place_of(target, PrecisionRequest(calibrate=FOLDER, **options))
