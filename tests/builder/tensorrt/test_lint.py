"""Every rule of the lint, and the compiler's word on the same graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from detserve_builder.errors import BuildError
from detserve_builder.tensorrt.libraries import import_rtx
from detserve_builder.tensorrt.lint import check, lint
from detserve_builder.tensorrt.plan import PlanError, PlanOptions, build_plan
from tests.builder.tensorrt import networks
from tests.builder.tensorrt.rtx import needs_rtx

_OPTIONS = PlanOptions(opt_batch=2, max_batch=2)
_DYNAMIC = networks.graph(
    [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"], "dynamic"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], "back"),
    ]
)

REFUSED_BY_BOTH = {
    "zero point 3": (networks.quantised(np.int8(3)), "zero point is not 0"),
    "UINT8 with zero point 128": (networks.quantised(np.uint8(128)), "UINT8"),
    "INT16": (networks.quantised(np.int16(0), opset=21), "INT16 runs in ONNX Runtime on the CPU only"),
    "scale 0": (networks.quantised(np.int8(0), scale=0), "scale is not positive"),
    "INT32 bias": (networks.int32_bias(), "INT32 bias"),
    "dynamic quantisation": (_DYNAMIC, "DynamicQuantizeLinear"),
    "UINT8 transposed": (networks.picture_first("Transpose", perm=[0, 3, 1, 2]), "cast UINT8 inputs"),
    "UINT8 identity": (networks.picture_first("Identity"), "cast UINT8 inputs"),
    "UINT8 in the middle": (networks.through(TensorProto.UINT8), "UINT8 tensor 'there'"),
    "INT16 in the middle": (networks.through(TensorProto.INT16), "gives INT16"),
    "UINT32 in the middle": (networks.through(TensorProto.UINT32), "gives UINT32"),
    "K 3841": (networks.top_k(3841), "K is over 3840"),
    "antialiased": (networks.resized(antialias=1), "its antialias is 1"),
    "aspect ratio kept": (
        networks.resized(keep_aspect_ratio_policy="not_larger"),
        "its keep_aspect_ratio_policy is not_larger",
    ),
    "half_pixel_symmetric": (
        networks.resized(coordinate_transformation_mode="half_pixel_symmetric"),
        "its coordinate_transformation_mode is half_pixel_symmetric",
    ),
    "dilated pool": (networks.pooled(dilations=[2, 2]), "its dilations is [2, 2]"),
    "places of the maxima": (networks.pooled(places=True), "the places of the maxima"),
    "an operator TensorRT lacks": (networks.compressed(), "TensorRT has no Compress"),
}

#: TensorRT compiles these and computes something else, or Triton could not serve what it makes.
REFUSED_BY_THE_LINT_ALONE = {
    "UINT8 with zero point 0": (networks.quantised(np.uint8(0)), "clips at 127"),
    "no zero point": (networks.quantised(None), "UINT8"),
    "opset 9": (networks.graph([helper.make_node("Relu", ["x"], ["y"])], opset=9), "opset 9"),
    "open output": (
        networks.graph(
            [helper.make_node("Relu", ["x"], ["y"])],
            inputs=[("x", TensorProto.FLOAT, ["N", 3, "h", "w"])],
            output=("y", TensorProto.FLOAT, ["N", 3, "h", "w"]),
        ),
        "not fixed beyond the batch",
    ),
}

TAKEN = {
    "INT8 symmetric": networks.quantised(np.int8(0)),
    "UINT8 cast at once": networks.picture_first(""),
    "K 3840": networks.top_k(3840),
    "resized": networks.resized(antialias=0, coordinate_transformation_mode="half_pixel"),
    "pooled": networks.pooled(dilations=[1, 1]),
    "FP16 in the middle": networks.through(TensorProto.FLOAT16),
}


def _compile(model: onnx.ModelProto) -> None:
    build_plan(import_rtx(), model.SerializeToString(), _OPTIONS, compute_capability="8.9")


@pytest.mark.parametrize("name", [*REFUSED_BY_BOTH, *REFUSED_BY_THE_LINT_ALONE])
def test_the_lint_says_why(name: str) -> None:
    model, reason = {**REFUSED_BY_BOTH, **REFUSED_BY_THE_LINT_ALONE}[name]
    findings = lint(model)
    assert findings
    assert reason in str(findings[0])
    with pytest.raises(BuildError, match="^tiny.onnx: not for TensorRT: "):
        check(model, where="tiny.onnx")


@pytest.mark.parametrize("name", TAKEN)
def test_what_tensorrt_takes_has_no_findings(name: str) -> None:
    assert [finding for finding in lint(TAKEN[name]) if not finding.where.startswith("output")] == []


@needs_rtx
@pytest.mark.parametrize("name", REFUSED_BY_BOTH)
def test_the_compiler_refuses_what_the_lint_refuses(name: str) -> None:
    with pytest.raises(PlanError):
        _compile(REFUSED_BY_BOTH[name][0])


@needs_rtx
@pytest.mark.parametrize("name", [*TAKEN, "UINT8 with zero point 0", "no zero point", "opset 9"])
def test_the_compiler_takes_the_rest(name: str) -> None:
    _compile(TAKEN[name] if name in TAKEN else REFUSED_BY_THE_LINT_ALONE[name][0])
