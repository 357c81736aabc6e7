"""More requests than the server can answer: how many it still answers, and how soon it refuses the rest.

Capacity is what a closed loop of callers gets, as many as keep the server busy. A load is a multiple of it,
with Poisson arrivals that do not wait for answers. Latency counts from the moment a request was due: a
generator that is late hides nothing. perf_analyzer ends at the first refused request; hence our own
generator, on ready-made messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean

from detserve_core.endpoint import Endpoint
from detserve_perf.capacity.fill import CALLERS
from detserve_perf.load.corpus import read_pictures
from detserve_perf.load.generator import Run, Send, answered, closed_loop, open_loop, poisson_arrivals_s
from detserve_perf.load.wire_requests import triton_sender


@dataclass(frozen=True)
class OverloadRun:
    """One load: ``run`` and the mean of the closed loops right before and after it, ``peak_per_s``."""

    load: float
    offered_per_s: float
    duration_s: float
    peak_per_s: float
    run: Run

    @property
    def goodput_per_s(self) -> float:
        """Answers that came while the load was on."""
        in_time = [
            sample
            for sample in self.run.samples
            if sample.error is None and sample.due_s + sample.latency_s <= self.duration_s
        ]
        return len(in_time) / self.duration_s

    @property
    def generator_cores(self) -> float:
        """CPU time that sending took, on this machine's cores."""
        return self.run.cpu_s / self.run.took_s

    def latencies_ms(self, *, refused: bool) -> list[float]:
        """Of all requests that a full queue refused, or of those that were answered; ascending."""
        return sorted(
            1e3 * sample.latency_s for sample in self.run.samples if (sample.error is not None) is refused
        )


def overload(
    endpoint: Endpoint,
    model: str,
    pictures_folder: Path,
    loads: Sequence[float],
    duration_s: float,
    on_progress: Callable[[str], None],
    *,
    seed: int = 0,
    callers: int = CALLERS,
) -> list[OverloadRun]:
    """Closed loop of ``callers``, load, closed loop, load, ..., closed loop, each for ``duration_s``.

    Raises :class:`MeasurementError` when the server answers nothing, or fails a request otherwise than by
    refusing it.
    """
    sender = triton_sender(endpoint, model, read_pictures(pictures_folder))
    return asyncio.run(_interleave(sender, loads, duration_s, on_progress, seed, callers))


async def _interleave(
    sender: AbstractAsyncContextManager[Send],
    loads: Sequence[float],
    duration_s: float,
    on_progress: Callable[[str], None],
    seed: int,
    callers: int,
) -> list[OverloadRun]:
    async with sender as send:

        async def capacity(for_s: float) -> float:
            return answered(await closed_loop(send, concurrency=callers, duration_s=for_s)).pictures_per_s

        on_progress("warm-up")
        await capacity(min(1.0, duration_s))
        on_progress("capacity")
        peaks, loaded = [await capacity(duration_s)], []
        for number, load in enumerate(loads):
            on_progress(f"{load:g} times capacity")
            rate = load * peaks[0]
            run = await open_loop(send, poisson_arrivals_s(rate, duration_s, seed + number))
            loaded.append((load, rate, answered(run, or_refused=True)))
            on_progress("capacity")
            peaks.append(await capacity(duration_s))
    return [
        OverloadRun(load, rate, duration_s, mean(around), run)
        for (load, rate, run), around in zip(loaded, pairwise(peaks), strict=True)
    ]
