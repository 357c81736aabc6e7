"""One load generator for every server: requests made beforehand, answers not looked into, over HTTP or gRPC.

A closed loop keeps ``concurrency`` requests in flight. An open loop sends each request at its own time,
whether or not those before it were answered, as cameras do.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detserve_client.engine.faults import error_from_grpc, error_from_http
from detserve_client.transports.async_http_connection import AsyncHttpConnection
from detserve_client.transports.http_exchange import request_bytes
from detserve_client.transports.http_pool import HttpPool
from detserve_core.endpoint import Endpoint
from detserve_core.errors import Overloaded
from detserve_core.proxies import grpc_arguments
from detserve_perf.errors import MeasurementError

TIMEOUT_S = 60.0
_MESSAGE_BYTES = 2**31 - 1
GRPC_METHOD = "/inference.GRPCInferenceService/ModelInfer"


class RequestFailed(Exception):
    """One request got no detections; the text is the server's."""


@dataclass(frozen=True)
class HttpRequest:
    """The body of one POST and its headers."""

    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Sample:
    """One request: when it was due from the start on, how long its answer took from then, its failure.

    ``latency_s`` counts from when the request was due, so a generator that lags is not hidden.
    """

    due_s: float
    latency_s: float
    error: str | None = None


@dataclass(frozen=True)
class Run:
    """All requests of one load in the order of their answers. ``cpu_s`` is the generator's own CPU time."""

    samples: tuple[Sample, ...]
    took_s: float
    cpu_s: float

    @property
    def latencies_ms(self) -> NDArray[np.float64]:
        """Of the answered requests, float64 [n]."""
        return np.array([1e3 * sample.latency_s for sample in self.samples if sample.error is None])

    @property
    def errors(self) -> list[str]:
        """What the failed requests were told."""
        return [sample.error for sample in self.samples if sample.error is not None]

    @property
    def pictures_per_s(self) -> float:
        """Answered requests over the time of the run."""
        return len(self.latencies_ms) / self.took_s


Send = Callable[[int], Awaitable[bytes]]
"""Sends the request of this number (they are taken in turn) and returns the raw answer."""


@asynccontextmanager
async def http_sender(endpoint: Endpoint, path: str, requests: Sequence[HttpRequest]) -> AsyncIterator[Send]:
    """POST to ``path`` of the endpoint over the client's connections, with messages made beforehand."""
    import httptools

    own = {"Host": endpoint.address, **endpoint.security.headers()}
    messages = [request_bytes("POST", path, {**own, **request.headers}, request.body) for request in requests]
    pool = HttpPool(endpoint, AsyncHttpConnection)

    async def send(number: int) -> bytes:
        connection = pool.take()
        try:
            message, deadline_s = messages[number % len(messages)], time.monotonic() + TIMEOUT_S
            answer, reusable = await connection.exchange(message, deadline_s)
        except (OSError, httptools.HttpParserError) as error:
            connection.close()
            raise RequestFailed(str(error)) from None
        except BaseException:
            connection.close()
            raise
        pool.give_back(connection, reusable)
        if answer.status != 200:
            raise RequestFailed(f"status {answer.status}: {answer.body[:200].decode(errors='replace')}")
        return answer.body

    try:
        yield send
    finally:
        pool.close()
        await asyncio.sleep(0)  # the event loop closes them at its next turn


@asynccontextmanager
async def grpc_sender(endpoint: Endpoint, requests: Sequence[bytes], model: str = "") -> AsyncIterator[Send]:
    """Call ModelInfer with messages that are serialised already; answers stay serialised.

    ``model`` is for a gateway, which does not look into messages.
    """
    import grpc.aio

    options = [("grpc.max_send_message_length", _MESSAGE_BYTES)]
    options += [("grpc.max_receive_message_length", _MESSAGE_BYTES), *grpc_arguments(endpoint.host)]
    if endpoint.tls:
        credentials = endpoint.security.grpc_credentials()
        made = grpc.aio.secure_channel(endpoint.address, credentials, options=options)
    else:
        made = grpc.aio.insecure_channel(endpoint.address, options=options)
    metadata = endpoint.security.metadata(model)
    async with made as channel:
        call = channel.unary_unary(GRPC_METHOD)

        async def send(number: int) -> bytes:
            try:
                message = requests[number % len(requests)]
                return bytes(await call(message, timeout=TIMEOUT_S, metadata=metadata))
            except grpc.aio.AioRpcError as error:
                raise RequestFailed(f"{error.code().name}: {error.details()}") from None

        yield send


async def closed_loop(
    send: Send, *, concurrency: int, requests: int | None = None, duration_s: float | None = None
) -> Run:
    """Keep ``concurrency`` requests in flight until ``requests`` were sent or ``duration_s`` is over."""
    numbers = itertools.count() if requests is None else iter(range(requests))
    started_s, cpu_s = time.perf_counter(), time.process_time()
    ends_s = float("inf") if duration_s is None else started_s + duration_s
    samples: list[Sample] = []

    async def keep_one() -> None:
        for number in numbers:
            due_s = time.perf_counter()
            if due_s >= ends_s:
                return
            samples.append(await _timed(send, number, due_s, started_s))

    await asyncio.gather(*(keep_one() for _ in range(concurrency)))
    return Run(tuple(samples), time.perf_counter() - started_s, time.process_time() - cpu_s)


async def open_loop(send: Send, due_s: Sequence[float]) -> Run:
    """Send each request at its time in ``due_s`` (seconds from the start, ascending) and wait for all."""
    started_s, cpu_s = time.perf_counter(), time.process_time()
    samples: list[Sample] = []

    async def one(number: int, at_s: float) -> None:
        samples.append(await _timed(send, number, at_s, started_s))

    tasks = []
    for number, offset_s in enumerate(due_s):
        at_s = started_s + offset_s
        await asyncio.sleep(at_s - time.perf_counter())
        tasks.append(asyncio.create_task(one(number, at_s)))
    await asyncio.gather(*tasks)
    return Run(tuple(samples), time.perf_counter() - started_s, time.process_time() - cpu_s)


def poisson_arrivals_s(rate_per_s: float, duration_s: float, seed: int) -> list[float]:
    """Times of arrival at random, ``rate_per_s`` on average, ascending, below ``duration_s``."""
    random = np.random.default_rng(seed)
    count = random.poisson(rate_per_s * duration_s)
    return [float(time_s) for time_s in np.sort(random.uniform(0, duration_s, count))]


def answered(run: Run, *, or_refused: bool = False) -> Run:
    """The run itself; raises :class:`MeasurementError` when a request failed (other than by a full queue)."""
    for error in run.errors:
        if not (or_refused and is_refusal(error)):
            raise MeasurementError(f"a request failed during the measurement: {error}")
    return run


def is_refusal(error: str) -> bool:
    """Whether a failed request's text says that the queue was full, or the wait in it too long."""
    code, _, details = error.partition(": ")
    if code.startswith("status "):
        found: Exception = error_from_http(int(code.removeprefix("status ")), details, url="", model="")
    else:
        found = error_from_grpc(code, details, url="", model="")
    return isinstance(found, Overloaded)


async def _timed(send: Send, number: int, due_s: float, started_s: float) -> Sample:
    try:
        await send(number)
        error = None
    except RequestFailed as failure:
        error = str(failure)
    return Sample(due_s - started_s, time.perf_counter() - due_s, error)
