"""What only a GPU can show: written to be run inside the image of deploy/images/engines, not run yet."""

from __future__ import annotations

import ctypes
from importlib.util import find_spec
from pathlib import Path

import pytest

from detserve_builder.build import build
from detserve_builder.errors import BuildError
from detserve_builder.tensorrt.engines import EngineOptions, build_engine
from detserve_builder.tensorrt.gpu import first_gpu
from detserve_builder.tensorrt.libraries import import_tensorrt
from detserve_builder.triton_config import Target
from tests.builder.tiny_networks import save_yolox


def _has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


@pytest.mark.skipif(_has_driver(), reason="an NVIDIA driver is here")
def test_without_a_driver_one_sentence() -> None:
    with pytest.raises(BuildError, match="no NVIDIA driver here"):
        first_gpu()


@pytest.mark.gpu
@pytest.mark.skipif(
    not _has_driver() or not (find_spec("tensorrt") or find_spec("tensorrt_bindings")),
    reason="needs an NVIDIA GPU and TensorRT, as in the image of deploy/images/engines",
)
@pytest.mark.parametrize("version_compatible", [False, True])
def test_a_plan_loads_and_has_the_contracts_tensors(tmp_path: Path, version_compatible: bool) -> None:
    trt, repository = import_tensorrt(), tmp_path / "repository"
    network = save_yolox(tmp_path / "net.onnx")
    build(str(network), name="tiny", repository=repository, target=Target.TENSORRT)
    options = EngineOptions(version_compatible=version_compatible, timing_cache=tmp_path / "timings")
    [plan] = build_engine(repository, "tiny", options, trt=trt, gpu=first_gpu())
    assert list((tmp_path / "timings").iterdir())
    runtime = trt.Runtime(trt.Logger())
    runtime.engine_host_code_allowed = version_compatible
    engine = runtime.deserialize_cuda_engine(plan.read_bytes())
    tensors = {name: engine.get_tensor_dtype(name) for name in map(engine.get_tensor_name, range(4))}
    assert tensors == {
        "images": trt.uint8,
        "boxes": trt.float32,
        "scores": trt.float32,
        "classes": trt.int32,
    }
    assert tuple(engine.get_tensor_profile_shape("images", 0)[2]) == (8, 64, 64, 3)
