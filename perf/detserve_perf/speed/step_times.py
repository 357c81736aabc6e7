"""Where a request's time goes: Triton's statistics of every composing model, after minus before.

Times are per request: a request that shares a batch is charged the whole time of its batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from detserve_perf.errors import MeasurementError

_NS_PER_MS = 1e6


@dataclass(frozen=True)
class ModelCounters:
    """Counters of one model since it was loaded; ``*_ns`` are sums over its successful requests.

    ``failed`` tells whether a request failed, not how many: an ensemble counts each twice, and a python model
    answers with an error what then counts as a success.
    """

    requests: int
    failed: int
    executions: int
    pictures: int
    queue_ns: int
    compute_input_ns: int
    compute_infer_ns: int
    compute_output_ns: int

    @classmethod
    def from_statistics(cls, statistics: Mapping[str, Any]) -> ModelCounters:
        """Read one entry of ``model_stats``; gRPC's JSON has its 64-bit integers as text and omits zeros."""
        stats = statistics.get("inference_stats", {})

        def read(stage: str, field: str) -> int:
            return int(stats.get(stage, {}).get(field, 0))

        return cls(
            requests=read("success", "count"),
            failed=read("fail", "count"),
            executions=int(statistics.get("execution_count", 0)),
            pictures=int(statistics.get("inference_count", 0)),
            queue_ns=read("queue", "ns"),
            compute_input_ns=read("compute_input", "ns"),
            compute_infer_ns=read("compute_infer", "ns"),
            compute_output_ns=read("compute_output", "ns"),
        )


@dataclass(frozen=True)
class StepTimes:
    """Mean milliseconds per request in one model, and how many pictures one execution held on average."""

    model: str
    requests: int
    queue_ms: float
    compute_input_ms: float
    compute_infer_ms: float
    compute_output_ms: float
    pictures_per_execution: float


Snapshot = Mapping[str, ModelCounters]


def step_times(before: Snapshot, after: Snapshot) -> list[StepTimes]:
    """The difference of two snapshots, model by model in the order of ``after``.

    Raises :class:`MeasurementError` when a model failed a request in between, answered none, or was reloaded.
    """
    return [_difference(model, before[model], after[model]) for model in after]


def _difference(model: str, before: ModelCounters, after: ModelCounters) -> StepTimes:
    failed = after.failed - before.failed
    requests = after.requests - before.requests
    if failed < 0 or requests < 0:
        raise MeasurementError(f"{model} was reloaded during the measurement; measure again")
    if failed:
        raise MeasurementError(
            f"requests to {model} failed during the measurement, of this client or another; how many, and "
            "why, is in detserve_requests_total of the server's metrics and in its log"
        )
    if requests == 0:
        raise MeasurementError(
            f"{model} answered no request during the measurement; is a response cache in front of it?"
        )

    def per_request_ms(field: str) -> float:
        total_ns: int = getattr(after, field) - getattr(before, field)
        return total_ns / requests / _NS_PER_MS

    executions = after.executions - before.executions
    return StepTimes(
        model=model,
        requests=requests,
        queue_ms=per_request_ms("queue_ns"),
        compute_input_ms=per_request_ms("compute_input_ns"),
        compute_infer_ms=per_request_ms("compute_infer_ns"),
        compute_output_ms=per_request_ms("compute_output_ns"),
        pictures_per_execution=(after.pictures - before.pictures) / max(executions, 1),
    )
