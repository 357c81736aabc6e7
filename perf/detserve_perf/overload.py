"""More requests than the server can answer: how many it still answers, and how soon it refuses the rest.

Capacity is what a closed loop of a few callers gets. A load is a multiple of it, with Poisson arrivals that
do not wait for answers. Latency counts from the moment a request was due: a generator that is late hides
nothing. perf_analyzer ends at the first refused request; hence a generator of our own, on ready-made bytes.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import struct
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from pathlib import Path
from statistics import mean

from detserve_client.contract import IMAGE, OUTPUTS
from detserve_client.endpoint import Endpoint
from detserve_client.errors import Overloaded
from detserve_client.faults import error_from_grpc
from detserve_perf.corpus import read_pictures
from detserve_perf.errors import MeasurementError

CALLERS = 8
_TIMEOUT_S = 60.0
_METHOD = "/inference.GRPCInferenceService/ModelInfer"


class Outcome(str, Enum):
    """What became of a request."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"  # for its queue was full
    FAILED = "failed"


@dataclass(frozen=True)
class Answer:
    """``latency_s`` from the moment the request was due; ``at_s`` from the start of the load."""

    outcome: Outcome
    latency_s: float
    at_s: float
    error: str = ""


@dataclass(frozen=True)
class OverloadRun:
    """One load. ``peak_per_s`` is the mean of the closed loops right before and after it.

    ``goodput_per_s`` counts the answers that came while the load was on; ``generator_cores`` is the CPU time
    that sending took, on this machine's cores.
    """

    load: float
    offered_per_s: float
    goodput_per_s: float
    peak_per_s: float
    answers: tuple[Answer, ...]
    generator_cores: float

    def latencies_ms(self, outcome: Outcome) -> list[float]:
        """Of all requests with this outcome, ascending."""
        return sorted(answer.latency_s * 1e3 for answer in self.answers if answer.outcome is outcome)


Send = Callable[[float], Coroutine[None, None, Answer]]


def overload(
    url: str,
    model: str,
    pictures_folder: Path,
    loads: Sequence[float],
    duration_s: float,
    on_progress: Callable[[str], None],
    *,
    seed: int = 0,
) -> list[OverloadRun]:
    """Closed loop, load, closed loop, load, ..., closed loop, each for ``duration_s``.

    Raises :class:`MeasurementError` when the server answers nothing, or fails a request otherwise than by
    refusing it.
    """
    endpoint = Endpoint.parse(url)
    if endpoint.protocol != "grpc" or endpoint.tls:
        raise MeasurementError(f"{url}: overload is measured over plain gRPC; give a grpc:// address")
    requests = [request_bytes(model, picture) for picture in read_pictures(pictures_folder)]
    return asyncio.run(_interleave(endpoint, model, requests, loads, duration_s, on_progress, seed))


def request_bytes(model: str, picture: bytes) -> bytes:
    """A ModelInferRequest with one encoded picture, serialised."""
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(
        model_name=model,
        inputs=[service_pb2.ModelInferRequest.InferInputTensor(name=IMAGE, datatype="BYTES", shape=[1, 1])],
        outputs=[service_pb2.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in OUTPUTS],
        raw_input_contents=[struct.pack("<I", len(picture)) + picture],
    )
    return bytes(request.SerializeToString())


def arrivals_s(rate_per_s: float, duration_s: float, seed: int) -> Iterator[float]:
    """When the requests of a Poisson stream are due, from 0 to ``duration_s``."""
    chance = random.Random(seed)  # noqa: S311
    at_s = chance.expovariate(rate_per_s)
    while at_s < duration_s:
        yield at_s
        at_s += chance.expovariate(rate_per_s)


async def _interleave(
    endpoint: Endpoint,
    model: str,
    requests: list[bytes],
    loads: Sequence[float],
    duration_s: float,
    on_progress: Callable[[str], None],
    seed: int,
) -> list[OverloadRun]:
    async with _sender(endpoint, model, requests) as send:
        on_progress("warm-up")
        await _closed_loop(send, min(1.0, duration_s))
        on_progress("capacity")
        peaks, runs = [await _closed_loop(send, duration_s)], []
        for number, load in enumerate(loads):
            on_progress(f"{load:g} times capacity")
            rate, used_s = load * peaks[0], time.process_time()
            answers = await _open_loop(send, list(arrivals_s(rate, duration_s, seed + number)))
            cores = (time.process_time() - used_s) / max(answer.at_s for answer in answers)
            on_progress("capacity")
            peaks.append(await _closed_loop(send, duration_s))
            runs.append((load, rate, answers, cores))
    return [
        OverloadRun(
            load, rate, _accepted_until(answers, duration_s) / duration_s, mean(around), answers, cores
        )
        for (load, rate, answers, cores), around in zip(runs, pairwise(peaks), strict=True)
    ]


@asynccontextmanager
async def _sender(endpoint: Endpoint, model: str, requests: list[bytes]) -> AsyncIterator[Send]:
    """Give a coroutine that sends the next request, due at the given ``time.perf_counter``."""
    import grpc

    turns = itertools.cycle(requests)
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(endpoint.address, options=options) as channel:
        call = channel.unary_unary(_METHOD)

        async def send(due_s: float) -> Answer:
            outcome, sentence = Outcome.ACCEPTED, ""
            try:
                await call(next(turns), timeout=_TIMEOUT_S)
            except grpc.aio.AioRpcError as status:
                error = error_from_grpc(
                    status.code().name, status.details() or "", url=str(endpoint), model=model
                )
                outcome = Outcome.REJECTED if isinstance(error, Overloaded) else Outcome.FAILED
                sentence = str(error)
            now_s = time.perf_counter()
            return Answer(outcome, now_s - due_s, now_s, sentence)

        yield send


async def _closed_loop(send: Send, duration_s: float) -> float:
    """Answers per second that :data:`CALLERS` callers get, each of whom waits for its answer."""
    end_s = time.perf_counter() + duration_s

    async def caller() -> int:
        count = 0
        while time.perf_counter() < end_s:
            _check(await send(time.perf_counter()))
            count += 1
        return count

    started_s = time.perf_counter()
    counts = await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return sum(counts) / (time.perf_counter() - started_s)


async def _open_loop(send: Send, arrivals: Sequence[float]) -> tuple[Answer, ...]:
    started_s = time.perf_counter()
    tasks = []
    for at_s in arrivals:
        pause_s = started_s + at_s - time.perf_counter()
        await asyncio.sleep(max(0.0, pause_s))
        tasks.append(asyncio.create_task(send(started_s + at_s)))
    answers = [_check(answer, refusal_is_fine=True) for answer in await asyncio.gather(*tasks)]
    return tuple(Answer(one.outcome, one.latency_s, one.at_s - started_s, one.error) for one in answers)


def _check(answer: Answer, *, refusal_is_fine: bool = False) -> Answer:
    if answer.outcome is Outcome.FAILED or (answer.outcome is Outcome.REJECTED and not refusal_is_fine):
        raise MeasurementError(f"a request failed during the measurement: {answer.error}")
    return answer


def _accepted_until(answers: Sequence[Answer], end_s: float) -> int:
    return sum(answer.outcome is Outcome.ACCEPTED and answer.at_s <= end_s for answer in answers)
