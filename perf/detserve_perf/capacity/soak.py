"""Hours of load in small: does a server answer throughout, and does the memory of any process grow?"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from detserve_core.endpoint import Endpoint
from detserve_core.machine.processes import ProcessMemory, every, tree_memory
from detserve_perf.capacity.fill import callers_that_fill
from detserve_perf.errors import MeasurementError
from detserve_perf.load.corpus import check_pictures, corpus_note, named_pictures
from detserve_perf.load.generator import (
    Run,
    closed_loop,
    grpc_sender,
    is_refusal,
    open_loop,
    poisson_arrivals_s,
)
from detserve_perf.load.wire_requests import triton_grpc_requests
from detserve_perf.report.machine import Machine, this_machine
from detserve_perf.server.served import served
from detserve_perf.server.triton import TritonQueries

OnProgress = Callable[[str], None]
BOUND = 0.03
_CAPACITY_S = 5.0
_WARM_UP_SHARE = 0.1
_FLOOD_MORE = 56  # callers, beside those that fill the server: more than a queue holds
_LONGEST_FLOOD_S = 60.0
_SAMPLES = 400
_LEAST_EVERY_S = 0.5
_LEVEL_SAMPLES = 5
_UNITS_S = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class MemorySample:
    """All processes of the server at one time, seconds from the start of the load."""

    time_s: float
    processes: tuple[ProcessMemory, ...]


@dataclass(frozen=True)
class ProcessCourse:
    """One process: its resident memory when it was warm, the most and the least afterwards, at the end.

    ``level_bytes`` and ``end_bytes`` are medians of a few samples. ``whole`` is False when the process did
    not live from the warm-up to the end.
    """

    pid: int
    name: str
    level_bytes: float
    most_bytes: int
    least_bytes: int
    end_bytes: float
    whole: bool

    @property
    def growth(self) -> float:
        """The most over the level, less one: 0.03 is three hundredths more."""
        return self.most_bytes / self.level_bytes - 1


@dataclass(frozen=True)
class Soak:
    """What one soak saw."""

    model: str
    duration_s: float
    warm_up_s: float
    load: float
    capacity_per_s: float
    rate_per_s: float
    answered: int
    errors: tuple[str, ...]
    samples: tuple[MemorySample, ...]
    machine: Machine
    notes: tuple[str, ...]


def soak(
    repository: Path,
    model: str,
    pictures_folder: Path,
    *,
    duration_s: float,
    load: float,
    on_progress: OnProgress,
) -> Soak:
    """Serve ``repository``, find its capacity, send ``load`` times that at random times for ``duration_s``.

    Before that a flood fills the queue: a server's buffers grow with the most requests it ever held at a
    time, which random arrivals reach sooner or later. What grows after it is not a buffer.

    Raises :class:`MeasurementError`: no pictures, a server that does not start, whose capacity cannot be
    measured. What goes wrong under the load is in the result; see :func:`what_is_wrong`.
    """
    pictures = named_pictures(pictures_folder)
    requests = triton_grpc_requests(model, list(pictures))
    with served(repository, model) as server:
        endpoint = Endpoint.parse(server.grpc_url)
        with TritonQueries(endpoint) as queries:
            machine = this_machine(triton=queries.version())
            callers = callers_that_fill(queries.configs(model))
        check_pictures(pictures, endpoint, model)
        on_progress("finding the capacity")
        capacity_per_s = asyncio.run(_capacity(endpoint, requests, callers))
        rate_per_s, warm_up_s = load * capacity_per_s, _WARM_UP_SHARE * duration_s
        on_progress("filling the queue")
        flood_s = min(_LONGEST_FLOOD_S, warm_up_s)
        asyncio.run(_flood(endpoint, requests, callers + _FLOOD_MORE, flood_s))
        on_progress(f"{rate_per_s:.0f} pictures/s for {duration_s:g} s")
        samples: list[MemorySample] = []
        started_s = time.monotonic()

        def look() -> None:
            samples.append(MemorySample(time.monotonic() - started_s, tuple(tree_memory(server.pid))))

        with every(max(_LEAST_EVERY_S, duration_s / _SAMPLES), look):
            run = asyncio.run(_load(endpoint, requests, rate_per_s, duration_s))
    return Soak(
        model=model,
        duration_s=duration_s,
        warm_up_s=warm_up_s,
        load=load,
        capacity_per_s=capacity_per_s,
        rate_per_s=rate_per_s,
        answered=len(run.latencies_ms),
        errors=tuple(run.errors),
        samples=tuple(samples),
        machine=machine,
        notes=tuple(filter(None, [corpus_note(len(pictures)), _failed_note(run)])),
    )


def courses(samples: Sequence[MemorySample], warm_up_s: float) -> list[ProcessCourse]:
    """Every process seen after the warm-up, the most grown first; ``samples`` in the order of time."""
    warm = [sample for sample in samples if sample.time_s >= warm_up_s]
    if len(warm) < 2 * _LEVEL_SAMPLES:
        raise MeasurementError(
            f"{len(warm)} samples after the warm-up are too few to see growth; soak for longer"
        )
    seen: dict[int, list[ProcessMemory]] = {}
    for sample in warm:
        for process in sample.processes:
            seen.setdefault(process.pid, []).append(process)
    found = [_course(own, whole=len(own) == len(warm)) for own in seen.values()]
    return sorted(found, key=lambda course: -course.growth)


def what_is_wrong(result: Soak, bound: float = BOUND) -> str | None:
    """One sentence when requests failed, a process did not live through or grew by more than ``bound``.

    Requests that a full queue refused are no failure, as long as others are answered. None when all is well.
    """
    failed = [error for error in result.errors if not is_refusal(error)]
    if failed:
        sent = result.answered + len(result.errors)
        return f"{len(failed)} of {sent} requests failed, the first: {failed[0]}"
    if not result.answered:
        return f"no request was answered; {len(result.errors)} were refused by a full queue"
    found = courses(result.samples, result.warm_up_s)
    ended = [course for course in found if not course.whole]
    if ended:
        names = ", ".join(f"{course.name} ({course.pid})" for course in ended)
        return f"the server's processes changed during the soak: {names}; its log says why"
    grown = [course for course in found if course.growth > bound]
    if not grown:
        return None
    worst = grown[0]
    return (
        f"{worst.name} ({worst.pid}) grew by {worst.growth:.1%} after the warm-up, "
        f"more than the {bound:.0%} allowed" + (f", and {len(grown) - 1} others too" if grown[1:] else "")
    )


def read_duration_s(text: str) -> float:
    """``90s``, ``20m`` or ``1h`` in seconds; raises :class:`MeasurementError`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text.strip())
    if match is None or float(match[1]) <= 0:
        raise MeasurementError(f"the duration is {text!r}; expected e.g. 90s, 20m or 1h")
    return float(match[1]) * _UNITS_S[match[2]]


def _failed_note(run: Run) -> str | None:
    if not run.errors:
        return None
    refused = sum(map(is_refusal, run.errors))
    return (
        f"{len(run.errors)} of {len(run.samples)} requests got no detections, {refused} of them as the queue "
        f"was full; the first: {run.errors[0]}"
    )


def _course(own: Sequence[ProcessMemory], *, whole: bool) -> ProcessCourse:
    taken = [process.rss_bytes for process in own]
    return ProcessCourse(
        pid=own[0].pid,
        name=own[0].name,
        level_bytes=median(taken[:_LEVEL_SAMPLES]),
        most_bytes=max(taken),
        least_bytes=min(taken),
        end_bytes=median(taken[-_LEVEL_SAMPLES:]),
        whole=whole,
    )


async def _capacity(endpoint: Endpoint, requests: Sequence[bytes], callers: int) -> float:
    async with grpc_sender(endpoint, requests) as send:
        await closed_loop(send, concurrency=callers, duration_s=1)
        run = await closed_loop(send, concurrency=callers, duration_s=_CAPACITY_S)
    if run.errors or not run.samples:
        reason = run.errors[0] if run.errors else f"no answer within {_CAPACITY_S:g} s"
        raise MeasurementError(f"the capacity cannot be measured: {reason}")
    return run.pictures_per_s


async def _flood(endpoint: Endpoint, requests: Sequence[bytes], callers: int, duration_s: float) -> None:
    """More callers than the server takes; what it refuses is as it should be."""
    async with grpc_sender(endpoint, requests) as send:
        await closed_loop(send, concurrency=callers, duration_s=duration_s)


async def _load(endpoint: Endpoint, requests: Sequence[bytes], rate_per_s: float, duration_s: float) -> Run:
    async with grpc_sender(endpoint, requests) as send:
        return await open_loop(send, poisson_arrivals_s(rate_per_s, duration_s, seed=1))
