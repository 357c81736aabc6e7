"""``detserve engine``: what it writes, with TensorRT-RTX in the place of TensorRT."""

from __future__ import annotations

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from detserve_builder.build import build
from detserve_builder.commands.engine import app
from detserve_builder.errors import BuildError
from detserve_builder.tensorrt.engines import EngineOptions, build_engine, tensorrt_detectors
from detserve_builder.tensorrt.gpu import Gpu
from detserve_builder.tensorrt.libraries import import_rtx
from detserve_builder.triton_config import Target
from tests.builder.tensorrt.rtx import needs_rtx
from tests.builder.tiny_networks import save_yolox

ADA = Gpu("an Ada GPU", "8.9", "13.2")
IMAGE = {"NVIDIA_TRITON_SERVER_VERSION": "26.11", "CUDA_VERSION": "13.4.1"}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    network = save_yolox(tmp_path / "net.onnx")
    build(str(network), name="tiny", repository=tmp_path / "repository", target=Target.TENSORRT)
    return tmp_path / "repository"


def _files(repository: Path) -> set[str]:
    return {path.name for path in (repository / "tiny_detector/1").iterdir()}


@needs_rtx
def test_a_plan_and_its_sidecar(repository: Path) -> None:
    trt = import_rtx()
    onnx = (repository / "tiny_detector/1/model.onnx").read_bytes()
    before = (repository / "tiny_detector/config.pbtxt").read_text()
    [plan] = build_engine(repository, "tiny", EngineOptions(opt_batch=4), trt=trt, gpu=ADA, environment=IMAGE)
    assert plan == repository / "tiny_detector/1/model_sm89.plan"
    assert plan.name in before
    assert (repository / "tiny_detector/config.pbtxt").read_text() == before
    assert json.loads((plan.parent / "model_sm89.plan.json").read_text()) == {
        "schema_version": 1,
        "tensorrt": trt.__version__,
        "image": "26.11",
        "cuda": "13.4.1",
        "gpu": "an Ada GPU",
        "compute_capability": "8.9",
        "version_compatible": False,
        "hardware_compatible": False,
        "sparse_weights": False,
        "batch": [1, 4, 8],
        "onnx_sha256": hashlib.sha256(onnx).hexdigest(),
        "plan_sha256": hashlib.sha256(plan.read_bytes()).hexdigest(),
    }


@needs_rtx
def test_one_plan_for_every_gpu_from_ampere_on(repository: Path) -> None:
    options = EngineOptions(hardware_compatible=True)
    for _ in range(2):
        plans = build_engine(repository, "tiny", options, trt=import_rtx(), gpu=ADA)
    assert {"model.plan", "model_sm80.plan", "model_sm120.plan"} <= {plan.name for plan in plans}
    assert "model_sm75.plan" not in _files(repository)
    assert len({plan.read_bytes() for plan in plans}) == 1
    assert _files(repository) == {"model.onnx", *(f"{p.name}{end}" for p in plans for end in ("", ".json"))}


@needs_rtx
def test_turing_has_no_hardware_compatible_plan(repository: Path) -> None:
    turing = Gpu("a Turing GPU", "7.5", "13.2")
    with pytest.raises(BuildError, match=r"needs a GPU of compute capability 8\.0 or more"):
        build_engine(
            repository, "tiny", EngineOptions(hardware_compatible=True), trt=import_rtx(), gpu=turing
        )


def test_a_repository_without_tensorrt_detectors(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="no detector for TensorRT; build one with"):
        tensorrt_detectors(tmp_path)


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed here")
def test_without_tensorrt_the_command_says_where_to_run(repository: Path) -> None:
    result = CliRunner().invoke(app, ["--repository", str(repository)])
    assert isinstance(result.exception, BuildError)
    assert "docker compose run --rm build-engines" in str(result.exception)


def test_an_unknown_name(repository: Path) -> None:
    result = CliRunner().invoke(app, ["--repository", str(repository), "--name", "other"])
    assert isinstance(result.exception, BuildError)
    assert "no TensorRT detector 'other'; it has tiny" in str(result.exception)
