"""How long a server takes for a request, by how many are under way: measured now, or read from a sweep."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detserve_core.endpoint import Endpoint
from detserve_perf.capacity.queueing import Replica
from detserve_perf.errors import MeasurementError
from detserve_perf.load.generator import closed_loop, grpc_sender
from detserve_perf.server.triton import TritonQueries, steps_of

Float64 = NDArray[np.float64]
_CONCURRENCIES = (1, 2, 3, 4, 6, 8, 12)
_LONGEST = 1.2  # of the 99th percentile, where only percentiles are known
_NEARLY = 0.97
_QUANTILES = np.linspace(0.0005, 0.9995, 1000)


@dataclass(frozen=True)
class CurvePoint:
    """A closed loop of ``concurrency`` requests; ``latencies_s`` float64 [n]."""

    concurrency: int
    pictures_per_s: float
    latencies_s: Float64


@dataclass(frozen=True)
class ServiceCurve:
    """Points by concurrency, ascending, from 1 on; the queue's bound, 0 for none."""

    points: tuple[CurvePoint, ...]
    queue_size: int

    @property
    def capacity_per_s(self) -> float:
        """The most throughput of any point."""
        return max(point.pictures_per_s for point in self.points)

    @property
    def servers(self) -> int:
        """How many requests it works on at once: as many as it takes for nearly the capacity."""
        enough = _NEARLY * self.capacity_per_s
        return next(point.concurrency for point in self.points if point.pictures_per_s >= enough)

    def replica(self) -> Replica:
        """The server as a queue: work as measured at concurrency 1, speeds from the throughput at the others.

        The last speed gives the capacity.
        """
        alone = self.points[0]
        concurrencies = range(1, self.servers + 1)
        per_s = np.interp(
            concurrencies,
            [point.concurrency for point in self.points],
            [point.pictures_per_s for point in self.points],
        )
        per_s[-1] = self.capacity_per_s
        work_s = np.quantile(alone.latencies_s, _QUANTILES)
        speeds = tuple(float(rate * work_s.mean() / k) for k, rate in zip(concurrencies, per_s, strict=True))
        return Replica(work_s, speeds, self.queue_size)


def pooled(first: ServiceCurve, second: ServiceCurve) -> ServiceCurve:
    """Two curves of one server at the same concurrencies, as one: what a machine does between the two."""
    points = tuple(
        CurvePoint(
            one.concurrency,
            (one.pictures_per_s + other.pictures_per_s) / 2,
            np.concatenate([one.latencies_s, other.latencies_s]),
        )
        for one, other in zip(first.points, second.points, strict=True)
    )
    return ServiceCurve(points, first.queue_size)


def measure_curve(
    grpc_url: str,
    model: str,
    requests: Sequence[bytes],
    duration_s: float,
    on_progress: Callable[[str], None],
) -> ServiceCurve:
    """Closed loops of 1 to 12 requests for ``duration_s`` each; the queue's shape from the configuration."""
    endpoint = Endpoint.parse(grpc_url)
    with TritonQueries(endpoint) as queries:
        asyncio.run(_point(endpoint.address, requests, _CONCURRENCIES[-1], 1.0))
        points = []
        for concurrency in _CONCURRENCIES:
            on_progress(f"service curve, concurrency {concurrency}")
            points.append(asyncio.run(_point(endpoint.address, requests, concurrency, duration_s)))
        queue_size = _queue_size(queries, model)
    return ServiceCurve(tuple(points), queue_size)


def curve_from_sweep(file: Path) -> ServiceCurve:
    """The batch-1 points of a sweep.json, whose percentiles stand for the distribution.

    Raises :class:`MeasurementError` when the file is no sweep or lacks concurrency 1.
    """
    try:
        data = json.loads(file.read_bytes())
        runs = [run for run in data["runs"] if run["point"]["batch"] == 1]
        by_concurrency: dict[int, list[dict[str, float]]] = {}
        for run in runs:
            by_concurrency.setdefault(int(run["point"]["concurrency"]), []).append(run["load"])
        points = [_from_percentiles(*one) for one in sorted(by_concurrency.items())]
    except OSError as error:
        raise MeasurementError(
            f"{file} cannot be read ({error.strerror}); --curve takes a sweep.json"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise MeasurementError(f"{file} is no sweep.json; make one with detserve perf sweep") from None
    if not points or points[0].concurrency != 1:
        raise MeasurementError(
            f"{file} does not say what one request at a time takes; "
            "sweep with --batch 1 and --concurrency 1,2,4,8"
        )
    return ServiceCurve(tuple(points), queue_size=0)


def _from_percentiles(concurrency: int, loads: Sequence[dict[str, float]]) -> CurvePoint:
    """Straight lines between the percentiles; the shortest time is the one that gives the known mean."""
    per_s, p50, p90, p99 = (
        median(load[field] for load in loads) for field in ("pictures_per_s", "p50_ms", "p90_ms", "p99_ms")
    )
    longest = _LONGEST * p99
    known = 0.25 * p50 + 0.2 * (p50 + p90) + 0.045 * (p90 + p99) + 0.005 * (p99 + longest)
    shortest = float(np.clip((1e3 * concurrency / per_s - known) / 0.25, 0.3 * p50, p50))
    latencies_ms = np.interp(_QUANTILES, (0, 0.5, 0.9, 0.99, 1), (shortest, p50, p90, p99, longest))
    return CurvePoint(concurrency, per_s, latencies_ms / 1e3)


async def _point(address: str, requests: Sequence[bytes], concurrency: int, duration_s: float) -> CurvePoint:
    async with grpc_sender(address, requests) as send:
        run = await closed_loop(send, concurrency=concurrency, duration_s=duration_s)
    if run.errors or not run.samples:
        reason = run.errors[0] if run.errors else "no answer"
        raise MeasurementError(f"the service curve cannot be measured: {reason}")
    return CurvePoint(concurrency, run.pictures_per_s, run.latencies_ms / 1e3)


def _queue_size(queries: TritonQueries, model: str) -> int:
    """The bound of the queue of the composing model that computes longest."""
    steps = steps_of(queries.config(model)) or [model]

    def compute_ns(step: str) -> float:
        counters = queries.counters(step)
        return counters.compute_infer_ns / max(counters.requests, 1)

    config: dict[str, Any] = queries.config(max(steps, key=compute_ns))
    if bound := config.get("parameters", {}).get("max_waiting"):
        return int(bound["string_value"])
    policy = config.get("dynamic_batching", {}).get("default_queue_policy", {})
    return int(policy.get("max_queue_size", 0))
