"""How many replicas a demand takes, by simulation of one; and whether the simulation tells the truth."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np

from detserve_core.machine.processes import other_cpu_s
from detserve_perf.capacity.queueing import Replica, Waited, simulate
from detserve_perf.capacity.service_curve import ServiceCurve, pooled
from detserve_perf.errors import MeasurementError
from detserve_perf.load.generator import Run, grpc_sender, open_loop, poisson_arrivals_s

_REQUESTS = 20_000
_LEAST_LOAD, _MOST_LOAD = 0.005, 0.98
_STEPS = 12
_SEEDS = (1, 2, 3, 4, 5)
LOADS = (0.3, 0.6, 0.8)
TOLERANCE = 0.15
_MBIT = 1e6 / 8
_BUSY_CORES = 0.1


@dataclass(frozen=True)
class Demand:
    """What is asked for: ``pictures_per_s`` in all."""

    name: str
    pictures_per_s: float


@dataclass(frozen=True)
class Answer:
    """What a demand takes. Network is what goes to the servers, None when the pictures' size is not known."""

    demand: Demand
    replicas: int
    pictures_per_s_each: float
    p50_ms: float
    p99_ms: float
    mean_wait_ms: float
    network_mbit_per_s: float | None


@dataclass(frozen=True)
class Checked:
    """Measured and simulated latencies at one load, from the same arrival times.

    ``other_cores`` is what other programs took of the machine meanwhile, in cores.
    """

    load: float
    rate_per_s: float
    measured: Run
    simulated: Waited
    other_cores: float

    def error(self, percent: float | None = None) -> float:
        """Simulated over measured, less one, of a percentile or of the mean."""
        latencies_ms = self.measured.latencies_ms
        if percent is None:
            return self.simulated.mean_ms / float(latencies_ms.mean()) - 1
        return self.simulated.percentile_ms(percent) / float(np.percentile(latencies_ms, percent)) - 1


def largest_rate(replica: Replica, p99_ms: float) -> float:
    """The most requests a second, arriving at random, at which 99 % are answered within ``p99_ms``.

    Raises :class:`MeasurementError` when one replica cannot do it at any load.
    """
    capacity_per_s = replica.capacity_per_s

    def holds(load: float) -> bool:
        return _at_load(replica, load * capacity_per_s).percentile_ms(99) <= p99_ms

    if not holds(_LEAST_LOAD):
        least_ms = _at_load(replica, _LEAST_LOAD * capacity_per_s).percentile_ms(99)
        raise MeasurementError(
            f"a p99 of {p99_ms:g} ms cannot be had with any number of replicas: with hardly any load it is "
            f"{least_ms:.1f} ms; take a faster detector or machine"
        )
    low, high = _LEAST_LOAD, _MOST_LOAD
    if holds(high):
        return high * capacity_per_s
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low * capacity_per_s


def replicas_for(
    replica: Replica, demands: Sequence[Demand], p99_ms: float, picture_bytes: float | None
) -> list[Answer]:
    """The most that one replica answers, then the replicas for each demand.

    A demand is shared out at random among its replicas; each is simulated at its share.
    """
    rate_per_s = largest_rate(replica, p99_ms)
    answers = []
    for demand in (Demand("one replica at most", rate_per_s), *demands):
        replicas = math.ceil(demand.pictures_per_s / rate_per_s)
        each_per_s = demand.pictures_per_s / replicas
        waited = _at_load(replica, each_per_s)
        network = None if picture_bytes is None else demand.pictures_per_s * picture_bytes / _MBIT
        answers.append(
            Answer(
                demand,
                replicas,
                each_per_s,
                waited.percentile_ms(50),
                waited.percentile_ms(99),
                waited.mean_wait_ms,
                network,
            )
        )
    return answers


def check(
    address: str,
    requests: Sequence[bytes],
    curve: ServiceCurve,
    measure: Callable[[], ServiceCurve],
    duration_s: float,
    on_progress: Callable[[str], None],
    *,
    pid: int,
) -> list[Checked]:
    """Load the server of process ``pid`` at random times at three loads, and simulate the same arrivals.

    The loads are shares of the capacity of ``curve``. ``measure`` measures it again after each load, and what
    is simulated is the mean of the two around it: the machine's own speed moves by more than is judged here.
    """
    found, before = [], curve
    for seed, load in enumerate(LOADS, 1):
        rate_per_s = load * curve.capacity_per_s
        on_progress(f"check at {load:.0%} of the capacity, {rate_per_s:.0f} pictures/s")
        arrivals_s = poisson_arrivals_s(rate_per_s, duration_s, seed)
        others_s = other_cpu_s([pid])
        measured = asyncio.run(_measure(address, requests, arrivals_s))
        other_cores = (other_cpu_s([pid]) - others_s) / measured.took_s
        after = measure()
        replica = pooled(before, after).replica()
        before = after
        simulated = [simulate(replica, arrivals_s, other) for other in _SEEDS]
        waited = Waited(
            np.concatenate([one.latencies_ms for one in simulated]),
            np.concatenate([one.waits_ms for one in simulated]),
            sum(one.refused for one in simulated),
        )
        found.append(Checked(load, rate_per_s, measured, waited, other_cores))
    return found


def verdict(checks: Sequence[Checked]) -> str:
    """One sentence: whether mean and p99 were within the tolerance at every load, and the worst."""
    errors = [(abs(one.error(percent)), one.load, name) for one in checks for name, percent in _HELD]
    worst, load, name = max(errors)
    held = "within" if worst <= TOLERANCE else "NOT within"
    return (
        f"simulated mean and p99 are {held} {TOLERANCE:.0%} of the measured ones at every load; "
        f"the worst is the {name} at {load:.0%}, off by {worst:.0%}"
    )


def busy_note(checks: Sequence[Checked]) -> str | None:
    """What to say when the check did not have the machine to itself, None when it did."""
    most = max((one.other_cores for one in checks), default=0.0)
    if most < _BUSY_CORES:
        return None
    return f"other programs took up to {most:.1f} cores during the check; check again on a quiet machine"


_HELD: tuple[tuple[str, float | None], ...] = (("mean", None), ("p99", 99))


def mean_bytes(pictures: Sequence[bytes]) -> float:
    """Mean size of an encoded picture."""
    return mean(map(len, pictures))


def _at_load(replica: Replica, rate_per_s: float) -> Waited:
    return simulate(replica, poisson_arrivals_s(rate_per_s, _REQUESTS / rate_per_s, seed=7), seed=11)


async def _measure(address: str, requests: Sequence[bytes], arrivals_s: Sequence[float]) -> Run:
    async with grpc_sender(address, requests) as send:
        run = await open_loop(send, arrivals_s)
    if not len(run.latencies_ms):
        raise MeasurementError(f"no request was answered: {run.errors[0] if run.errors else 'none was sent'}")
    return run
