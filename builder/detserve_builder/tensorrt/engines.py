"""A repository of the ``tensorrt`` target -> its plans, each with a record that says what can load it.

The repository comes from ``detserve build --target tensorrt`` with the canonical ONNX. A plan is made for one
TensorRT and one GPU, so it is built where it will be served. Adding one changes no other file: config.pbtxt
names a plan for every compute capability from the start.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from detserve_builder.errors import BuildError
from detserve_builder.tensorrt.gpu import Gpu
from detserve_builder.tensorrt.plan import Plan, PlanOptions, build_plan
from detserve_builder.triton_config import COMPUTE_CAPABILITIES, Target, plan_filename
from detserve_core.repository.config_pbtxt import CONFIG, read_config
from detserve_core.repository.manifest import read_manifests
from detserve_core.repository.plan_record import PlanRecord, record_path

_AMPERE = (8, 0)


@dataclass(frozen=True)
class EngineOptions:
    """What all plans of one run share; ``opt_batch`` None tunes for each detector's largest batch."""

    opt_batch: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    sparse_weights: bool = False
    timing_cache: Path | None = None


def tensorrt_detectors(repository: Path) -> list[str]:
    """Names of the detectors of the tensorrt target; raises :class:`BuildError` where there is none."""
    names = [built.name for built in read_manifests(repository) if built.target == Target.TENSORRT.value]
    if not names:
        raise BuildError(
            f"{repository}: no detector for TensorRT; build one with: detserve build --target tensorrt"
        )
    return names


def build_engine(
    repository: Path,
    name: str,
    options: EngineOptions,
    *,
    trt: ModuleType,
    gpu: Gpu,
    environment: Mapping[str, str] = os.environ,
    on_step: Callable[[str], None] = lambda step: None,
) -> list[Path]:
    """Build the plan of detector ``name`` for ``gpu`` with ``trt``; returns the plan files.

    A hardware-compatible plan is one file under the names of all GPUs it runs on. ``environment`` is read for
    what NVIDIA's images say of themselves. Raises :class:`BuildError`.
    """
    folder = repository / f"{name}_detector"
    names = _names(gpu, options)
    onnx = _read(folder / "1" / "model.onnx")
    max_batch = int(read_config(folder / CONFIG).max_batch_size)
    plan_options = PlanOptions(
        opt_batch=min(options.opt_batch or max_batch, max_batch),
        max_batch=max_batch,
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
        sparse_weights=options.sparse_weights,
    )
    on_step(f"building {name} for {gpu.name} with TensorRT {trt.__version__}")
    plan = build_plan(
        trt,
        onnx,
        plan_options,
        timing_cache=_read_timing_cache(options.timing_cache, trt, gpu),
        compute_capability=gpu.compute_capability,
    )
    record = _record(onnx, plan, plan_options, trt=trt, gpu=gpu, environment=environment)
    _write_timing_cache(options.timing_cache, trt, gpu, plan.timing_cache)
    return _write_plan(folder / "1", plan, record, names)


def _names(gpu: Gpu, options: EngineOptions) -> list[str]:
    if not options.hardware_compatible:
        return [plan_filename(gpu.compute_capability)]
    if _version(gpu.compute_capability) < _AMPERE:
        raise BuildError(
            f"a hardware-compatible plan needs a GPU of compute capability 8.0 or more, {gpu.name} has "
            f"{gpu.compute_capability}; build without --hardware-compatible"
        )
    later = [capability for capability in COMPUTE_CAPABILITIES if _version(capability) >= _AMPERE]
    return [*(plan_filename(capability) for capability in later), "model.plan"]


def _record(
    onnx: bytes,
    plan: Plan,
    options: PlanOptions,
    *,
    trt: ModuleType,
    gpu: Gpu,
    environment: Mapping[str, str],
) -> PlanRecord:
    return PlanRecord(
        tensorrt=trt.__version__,
        image=environment.get("NVIDIA_TRITON_SERVER_VERSION", ""),
        cuda=environment.get("CUDA_VERSION", gpu.cuda),
        gpu=gpu.name,
        compute_capability=gpu.compute_capability,
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
        sparse_weights=options.sparse_weights,
        batch=(1, options.opt_batch, options.max_batch),
        onnx_sha256=hashlib.sha256(onnx).hexdigest(),
        plan_sha256=hashlib.sha256(plan.content).hexdigest(),
    )


def _write_plan(folder: Path, plan: Plan, record: PlanRecord, names: list[str]) -> list[Path]:
    """Each name appears whole; further names are links to the first where the file system has links."""
    described = record.to_json().encode()
    paths = [folder / name for name in names]
    try:
        _put(paths[0], plan.content)
        for path in paths[1:]:
            path.unlink(missing_ok=True)
            try:
                os.link(paths[0], path)
            except OSError:
                shutil.copyfile(paths[0], path)
        for path in paths:
            _put(record_path(path), described)
    except OSError as error:
        raise BuildError(f"{folder}: the plan cannot be written ({error.strerror})") from None
    return paths


def _put(path: Path, content: bytes) -> None:
    unfinished = path.with_name(f".{path.name}")
    unfinished.write_bytes(content)
    unfinished.replace(path)


def _timing_cache_file(folder: Path, trt: ModuleType, gpu: Gpu) -> Path:
    return folder / f"tensorrt_{trt.__version__}_{plan_filename(gpu.compute_capability)}.timing"


def _read_timing_cache(folder: Path | None, trt: ModuleType, gpu: Gpu) -> bytes:
    if folder is None:
        return b""
    file = _timing_cache_file(folder, trt, gpu)
    return file.read_bytes() if file.is_file() else b""


def _write_timing_cache(folder: Path | None, trt: ModuleType, gpu: Gpu, content: bytes) -> None:
    if folder is None or not content:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _put(_timing_cache_file(folder, trt, gpu), content)
    except OSError as error:
        raise BuildError(f"{folder}: the timing cache cannot be written ({error.strerror})") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BuildError(f"{path}: cannot be read ({error.strerror}); build the model again") from None


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))
