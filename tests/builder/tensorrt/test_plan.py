"""The one path from ONNX to plan, walked with TensorRT-RTX."""

from __future__ import annotations

from dataclasses import replace

import pytest

from detserve_builder.tensorrt.libraries import import_rtx
from detserve_builder.tensorrt.plan import PlanError, PlanOptions, build_plan
from tests.builder.tensorrt import networks
from tests.builder.tensorrt.rtx import needs_rtx

OPTIONS = PlanOptions(opt_batch=2, max_batch=8)
ONNX = networks.picture_first("").SerializeToString()


# version_compatible needs libnvinfer_lean, which TensorRT-RTX has not: to be run beside a GPU.
@needs_rtx
@pytest.mark.parametrize("option", ["hardware_compatible", "sparse_weights"])
def test_options_build(option: str) -> None:
    plan = build_plan(import_rtx(), ONNX, replace(OPTIONS, **{option: True}), compute_capability="8.9")
    assert plan.content


@needs_rtx
def test_tensorrts_own_reason_comes_through() -> None:
    with pytest.raises(PlanError, match="K exceeds the maximum value allowed"):
        build_plan(import_rtx(), networks.top_k(3841).SerializeToString(), OPTIONS, compute_capability="8.9")
    with pytest.raises(PlanError, match=r"."):
        build_plan(import_rtx(), b"no model", OPTIONS, compute_capability="8.9")


@needs_rtx
def test_a_batch_that_cannot_be() -> None:
    with pytest.raises(PlanError):
        build_plan(import_rtx(), ONNX, PlanOptions(opt_batch=9, max_batch=8), compute_capability="8.9")
