"""Prepared ONNX -> TensorRT plan: one path through the Python API of TensorRT 10, 11 and TensorRT-RTX.

Precision is what the ONNX says, node by node: casts for FP16, Q/DQ for INT8, in a strongly typed network.
What a version lacks is asked of it by name, never by its number: TensorRT 8.6 has no STRONGLY_TYPED and takes
the FP16 and INT8 flags instead, TensorRT 11 has lost them and EXPLICIT_BATCH. TensorRT-RTX alone can be told
the compute capability, and has no timing cache.

Run with TensorRT-RTX 1.7 only, without a GPU, and there without VERSION_COMPATIBLE, which wants
libnvinfer_lean. That TensorRT 10.16 and 11.4 have every name used here was read in their bindings; no plan of
theirs was built.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

from detserve_builder.errors import BuildError


class PlanError(BuildError):
    """TensorRT refused a graph; the text is its own reason."""


@dataclass(frozen=True)
class PlanOptions:
    """How a plan is built.

    The batch is free from 1 to ``max_batch`` and tuned for ``opt_batch``. ``version_compatible`` plans load
    in later TensorRT versions, ``hardware_compatible`` ones on every GPU from Ampere on; both cost speed.
    """

    opt_batch: int
    max_batch: int
    version_compatible: bool = False
    hardware_compatible: bool = False
    sparse_weights: bool = False


@dataclass(frozen=True)
class Plan:
    """A serialised engine, and the timing cache that makes the next build of the same layers fast."""

    content: bytes
    timing_cache: bytes


def build_plan(
    trt: ModuleType,
    onnx: bytes,
    options: PlanOptions,
    *,
    compute_capability: str,
    timing_cache: bytes = b"",
) -> Plan:
    """Build ``onnx`` (a serialised ModelProto) with ``trt``, the Python API of a TensorRT.

    TensorRT builds for the GPU it finds, TensorRT-RTX for ``compute_capability`` ("8.9"). Raises
    :class:`PlanError` with TensorRT's first complaint.
    """
    log = _log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(onnx):
        raise PlanError(_first_line(parser.get_error(0).desc()) if parser.num_errors else log.complaint())
    config = builder.create_builder_config()
    _set_flags(trt, config, options)
    ahead_of_time = hasattr(trt, "ComputeCapability")
    if ahead_of_time:
        config.num_compute_capabilities = 1
        name = f"SM{compute_capability.replace('.', '')}"
        config.set_compute_capability(getattr(trt.ComputeCapability, name), 0)
    _set_batch(builder, network, config, options)
    cache = None if ahead_of_time else _set_timing_cache(config, timing_cache)
    content = builder.build_serialized_network(network, config)
    if content is None:
        raise PlanError(log.complaint())
    return Plan(bytes(content), bytes(cache.serialize()) if cache else b"")


def _set_timing_cache(config: Any, content: bytes) -> Any:
    """The cache in use: ``content``, or an empty one where it is of another TensorRT or GPU."""
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _network_flags(trt: ModuleType) -> int:
    flags = trt.NetworkDefinitionCreationFlag
    wanted = flags.STRONGLY_TYPED if hasattr(flags, "STRONGLY_TYPED") else flags.EXPLICIT_BATCH
    return 1 << int(wanted)


def _set_flags(trt: ModuleType, config: Any, options: PlanOptions) -> None:
    flags = trt.BuilderFlag
    if options.version_compatible:
        config.set_flag(flags.VERSION_COMPATIBLE)
    if options.sparse_weights:
        config.set_flag(flags.SPARSE_WEIGHTS)
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        # Weakly typed: these allow what casts and Q/DQ ask for, and the last forbids anything else.
        for name in ("FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"):
            config.set_flag(getattr(flags, name))


def _set_batch(builder: Any, network: Any, config: Any, options: PlanOptions) -> None:
    """One profile from batch 1 to the largest, for the inputs that leave the batch open."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    free = [tensor for tensor in inputs if -1 in tuple(tensor.shape)]
    if not free:
        return
    profile = builder.create_optimization_profile()
    for tensor in free:
        shape = tuple(tensor.shape)
        profile.set_shape(
            tensor.name,
            *(
                tuple(batch if size == -1 else size for size in shape)
                for batch in (1, options.opt_batch, options.max_batch)
            ),
        )
    config.add_optimization_profile(profile)


def _log(trt: ModuleType) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc, name-defined]
        """Keeps the errors; the last one is the most general, the first the cause."""

        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

        def complaint(self) -> str:
            return _first_line(self.errors[0]) if self.errors else "TensorRT gave no reason"

    return Log()


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and "checkMacros" not in line]
    return " ".join(lines)[:300] or text[:300]
