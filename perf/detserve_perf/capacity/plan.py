"""The most that a server answers within a p99, found by sending it, and the machines that a rate takes.

Rates are shares of what a closed loop of callers gets, as many as keep the server busy. The rounds take all
of them in turn, at random times. A rate holds when 99 % of the requests of every round were answered in time.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from detserve_core.endpoint import Endpoint
from detserve_core.machine.processes import other_cpu_s
from detserve_perf.capacity.fill import CALLERS
from detserve_perf.errors import MeasurementError
from detserve_perf.load.generator import Run, Send, answered, closed_loop, open_loop, poisson_arrivals_s
from detserve_perf.load.wire_requests import triton_sender
from detserve_perf.speed.sweep import spread

SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
ROUNDS = 3
MOST_DRIFT = 0.2
MOST_OTHERS = 0.1
_LEAST_REQUESTS = 100  # of fewer the p99 is the slowest
_WARM_UP_S = 1.0


@dataclass(frozen=True)
class RateRun:
    """One rate in one round; ``p99_ms`` is None where more than 1 % of the requests were refused."""

    offered_per_s: float
    requests: int
    refused: int
    p50_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True)
class RateSweep:
    """All rounds. ``capacities_per_s`` were measured before each and after the last.

    ``others_share`` is what other programs took of this machine's cores, None for a server that is not ours.
    """

    capacities_per_s: tuple[float, ...]
    runs: tuple[RateRun, ...]
    duration_s: float
    others_share: float | None
    callers: int = CALLERS


def sweep_rates(
    endpoint: Endpoint,
    model: str,
    pictures: Sequence[bytes],
    duration_s: float,
    on_progress: Callable[[str], None],
    *,
    cores: int,
    pid: int | None = None,
    shares: Sequence[float] = SHARES,
    rounds: int = ROUNDS,
    callers: int = CALLERS,
) -> RateSweep:
    """Send every rate in every round.

    Args:
        endpoint: the server's, or its gateway's.
        model: the ensemble.
        pictures: encoded, sent in turn.
        duration_s: seconds of each rate and round, more where that is fewer than 100 requests.
        on_progress: is told what comes next.
        cores: of this machine.
        pid: the server's, where it was started here.
        shares: the rates, as shares of the capacity.
        rounds: how often each is sent.
        callers: of the closed loop that the capacity is measured with.

    Raises:
        MeasurementError: a request failed other than by a full queue.
    """
    started_s, before_s = time.perf_counter(), 0.0 if pid is None else other_cpu_s([pid])
    sender = triton_sender(endpoint, model, pictures)
    capacities, runs = asyncio.run(_rounds(sender, duration_s, on_progress, shares, rounds, callers))
    took_s = time.perf_counter() - started_s
    others = None if pid is None else (other_cpu_s([pid]) - before_s) / took_s / cores
    return RateSweep(tuple(capacities), tuple(runs), duration_s, others, callers)


def largest_rate(sweep: RateSweep, p99_ms: float) -> float:
    """The largest rate that was sent and whose p99 held in every round, as did that of every smaller one.

    Raises :class:`MeasurementError` when none held, or the machine was too unsteady to say.
    """
    drift = spread(sweep.capacities_per_s)
    if drift > MOST_DRIFT:
        raise MeasurementError(
            f"no answer: the capacity was between {min(sweep.capacities_per_s):.1f} and "
            f"{max(sweep.capacities_per_s):.1f} pictures/s during the sweep, {drift:.0%} apart where "
            f"{MOST_DRIFT:.0%} is allowed; measure again on a quiet machine"
        )
    if sweep.others_share is not None and sweep.others_share > MOST_OTHERS:
        raise MeasurementError(
            f"no answer: other programs took {sweep.others_share:.0%} of the cores during the sweep where "
            f"{MOST_OTHERS:.0%} is allowed; measure again on a quiet machine"
        )
    held = 0.0
    for rate_per_s, runs in by_rate(sweep).items():
        worst_ms = max(math.inf if run.p99_ms is None else run.p99_ms for run in runs)
        if worst_ms > p99_ms:
            break
        held = rate_per_s
    if not held:
        raise MeasurementError(
            f"a p99 of {p99_ms:g} ms does not hold at any rate: at {rate_per_s:.1f} pictures/s, the smallest "
            f"that was sent, it is {worst_ms:.1f} ms; take a faster detector or machine, or a larger --p99"
        )
    return held


def machines_for(rate_per_s: float, largest_per_s: float, headroom: float) -> int:
    """Machines like the measured one that a rate takes when ``headroom`` (0..1) of each is kept free."""
    return math.ceil(rate_per_s / (largest_per_s * (1 - headroom)))


def by_rate(sweep: RateSweep) -> dict[float, list[RateRun]]:
    """The runs of each rate, the smallest rate first."""
    rates = sorted({run.offered_per_s for run in sweep.runs})
    return {rate: [run for run in sweep.runs if run.offered_per_s == rate] for rate in rates}


async def _rounds(
    sender: AbstractAsyncContextManager[Send],
    duration_s: float,
    on_progress: Callable[[str], None],
    shares: Sequence[float],
    rounds: int,
    callers: int,
) -> tuple[list[float], list[RateRun]]:
    async with sender as send:

        async def capacity(for_s: float) -> float:
            on_progress("capacity")
            run = answered(await closed_loop(send, concurrency=callers, duration_s=for_s))
            if not run.samples:
                raise MeasurementError(f"no request was answered within {for_s:g} s; is the server busy?")
            return run.pictures_per_s

        await capacity(_WARM_UP_S)
        capacities, runs = [await capacity(duration_s)], []
        for number in range(1, rounds + 1):
            for share in shares:
                rate_per_s = share * capacities[0]
                on_progress(f"round {number} of {rounds}: {rate_per_s:.1f} pictures/s")
                for_s = max(duration_s, _LEAST_REQUESTS / rate_per_s)
                arrivals_s = poisson_arrivals_s(rate_per_s, for_s, seed=number)
                runs.append(_rate_run(rate_per_s, await open_loop(send, arrivals_s)))
            capacities.append(await capacity(duration_s))
    return capacities, runs


def _rate_run(rate_per_s: float, run: Run) -> RateRun:
    refused = len(answered(run, or_refused=True).errors)
    latencies_ms = sorted([*run.latencies_ms.tolist(), *[math.inf] * refused])

    def within(share: float) -> float | None:
        latency_ms = latencies_ms[math.ceil(share * len(latencies_ms)) - 1]
        return None if math.isinf(latency_ms) else latency_ms

    return RateRun(rate_per_s, len(latencies_ms), refused, within(0.5), within(0.99))
