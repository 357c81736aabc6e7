"""The compile gate: every GPU generation, what TensorRT-RTX lacks, and whose word comes first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from detserve_builder.build import build, probe_pictures
from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.errors import BuildError
from detserve_builder.infer_card import infer_card
from detserve_builder.preparation.prepare import Prepared, prepare
from detserve_builder.tensorrt import libraries
from detserve_builder.tensorrt.compile_gate import COMPUTE_CAPABILITIES, compile_ahead_of_time
from detserve_builder.tensorrt.lint import lint
from detserve_core.errors import MissingExtra
from tests.builder.tensorrt import networks
from tests.builder.tensorrt.rtx import needs_rtx
from tests.builder.tiny_networks import save_linear_network

YOLOX_HEAD = {"output": [84, 8]}
YOLOV3_HEADS = {"fine": [24, 4, 4], "coarse": [24, 2, 2]}
#: The tiny networks are matrix products; TensorRT-RTX has none in float for Turing.
TURING = "compute capability 7.5: FP32 GEMM is not supported"


def prepared_from(source: str, card: Path | None = None) -> Prepared:
    checkpoint = load_checkpoint(source)
    found = infer_card(checkpoint, name="tested", said=card)
    return prepare(checkpoint, found, probe_pictures(found))


def _yolov3_card(folder: Path) -> Path:
    path = folder / "said.json"
    anchors = "[[[10, 14], [23, 27], [37, 58]], [[81, 82], [135, 169], [344, 319]]]"
    path.write_text(f'{{"head": {{"strides": [16, 32], "anchors_wh_px": {anchors}}}}}')
    return path


@needs_rtx
@pytest.mark.parametrize("middle", ["", "norm"], ids=["any batch", "batch 1"])
def test_yolox_heads(tmp_path: Path, middle: str) -> None:
    prepared = prepared_from(str(save_linear_network(tmp_path / "net.onnx", YOLOX_HEAD, middle=middle)))
    assert (prepared.batch_obstacle is not None) == bool(middle)
    gate = compile_ahead_of_time(prepared.model, where="net.onnx")
    assert [one.compute_capability for one in gate.compiled] == list(COMPUTE_CAPABILITIES[1:])
    assert gate.left_out == [TURING]


@needs_rtx
def test_yolov3_heads(tmp_path: Path) -> None:
    network = save_linear_network(tmp_path / "net.onnx", YOLOV3_HEADS)
    prepared = prepared_from(str(network), _yolov3_card(tmp_path))
    assert compile_ahead_of_time(prepared.model, where="net.onnx").left_out == [TURING]


@needs_rtx
@pytest.mark.parametrize(
    ("model", "left_out"),
    [
        (networks.nms_inside(), ["NonMaxSuppression 'nms'"]),
        (networks.two_stages(), ["NonMaxSuppression 'nms'", "RoiAlign 'crop'"]),
        (networks.nms_in_a_branch(), ["If 'if_any' around NonMaxSuppression"]),
        (networks.attention(), ["Attention 'attend'"]),
    ],
    ids=["nms", "two stages", "in a branch", "attention"],
)
def test_around_operators_that_rtx_lacks(model: onnx.ModelProto, left_out: list[str]) -> None:
    assert lint(model) == []
    gate = compile_ahead_of_time(model, where="two.onnx", compute_capabilities=["8.9"])
    assert gate.left_out == left_out
    assert len(gate.compiled) == 1


@needs_rtx
def test_a_defect_behind_such_an_operator_is_found() -> None:
    model = networks.two_stages()
    model.graph.node[-2].op_type = "ConvTranspose"  # wants a weight of another shape
    model.graph.initializer[-1].CopyFrom(numpy_helper.from_array(np.ones((3, 8, 4, 4), np.float32), "weight"))
    with pytest.raises(BuildError, match=r"two\.onnx: TensorRT refuses it"):
        compile_ahead_of_time(model, where="two.onnx", compute_capabilities=["8.9"])


def test_an_absent_compiler_is_said_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = (("a-wheel-that-is-not-there", "libnothing.so"),)
    monkeypatch.setattr(libraries, "_RTX_LIBRARIES", absent)
    steps: list[str] = []
    with pytest.raises(MissingExtra, match=r"pip install 'detserve\[tensorrt-check\]'"):
        build("absent.onnx", name="n", repository=tmp_path, check_tensorrt=True, on_step=steps.append)
    assert steps == []


def test_the_lint_speaks_before_the_compiler() -> None:
    model = networks.quantised(np.int16(0), opset=21)
    with pytest.raises(BuildError, match=r"x\.onnx: not for TensorRT: QuantizeLinear 'quantise': INT16"):
        compile_ahead_of_time(model, where="x.onnx")
