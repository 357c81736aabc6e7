"""The compile gate: a real NVIDIA compiler over the ONNX, on the CPU, for every GPU generation.

TensorRT-RTX builds engines ahead of time without a GPU and shares its parser and rules with TensorRT. Its
plans are thrown away: Triton's backend cannot load them. What it rejects is a defect of the graph, save for
what TensorRT-RTX alone lacks: that is left out and reported.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from detserve_builder.tensorrt.cut import without_operators
from detserve_builder.tensorrt.libraries import import_rtx
from detserve_builder.tensorrt.lint import ONLY_IN_TENSORRT, check
from detserve_builder.tensorrt.plan import PlanError, PlanOptions, build_plan

if TYPE_CHECKING:
    import onnx

#: Turing, Ampere (data centre and desktop), Ada, Blackwell: what TensorRT-RTX compiles for on a CPU.
COMPUTE_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0")

#: What TensorRT-RTX says of Turing, where TensorRT has the kernels.
_TURING_LACKS = "FP32 GEMM is not supported"


@dataclass(frozen=True)
class Compiled:
    """A graph compiled for one compute capability ("8.9")."""

    compute_capability: str
    plan_bytes: int
    duration_s: float


@dataclass(frozen=True)
class Gate:
    """What was compiled, and what was left out because TensorRT-RTX lacks it: one line each."""

    compiled: list[Compiled]
    left_out: list[str]


def compile_ahead_of_time(
    model: onnx.ModelProto,
    *,
    where: str,
    max_batch: int = 8,
    sparse_weights: bool = False,
    compute_capabilities: Sequence[str] = COMPUTE_CAPABILITIES,
) -> Gate:
    """Lint ``model``, then compile it for each compute capability.

    TensorRT has NonMaxSuppression and RoiAlign, TensorRT-RTX has not: they are taken out and everything
    around them is compiled. Raises :class:`~detserve_builder.errors.BuildError` with the reason, ``where`` in
    front, and :class:`~detserve_core.errors.MissingExtra` where TensorRT-RTX is not installed.
    """
    check(model, where=where)
    trt = import_rtx()
    options = PlanOptions(opt_batch=max_batch, max_batch=max_batch, sparse_weights=sparse_weights)
    compilable, left_out = without_operators(model, ONLY_IN_TENSORRT)
    content = compilable.SerializeToString()
    compiled = []
    for compute_capability in compute_capabilities:
        started = time.perf_counter()
        try:
            plan = build_plan(trt, content, options, compute_capability=compute_capability)
        except PlanError as error:
            if _TURING_LACKS in str(error):
                left_out.append(f"compute capability {compute_capability}: {_TURING_LACKS}")
                continue
            raise PlanError(f"{where}: TensorRT refuses it for {compute_capability}: {error}") from None
        compiled.append(Compiled(compute_capability, len(plan.content), time.perf_counter() - started))
    return Gate(compiled, left_out)
