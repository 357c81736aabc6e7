"""Callers that wait for their answers, each a thread with a connection of its own, as cameras are.

For measuring how fast a server is: they take less of the cores that they share with it than the event loop of
:mod:`detserve_perf.load.generator` does. Requests are made beforehand, answers not looked into.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager

from detserve_client.transports.http_exchange import ENDED_EARLY, Answer, AnswerReader, request_bytes
from detserve_core.endpoint import Endpoint
from detserve_perf.load.generator import (
    GRPC_METHOD,
    TIMEOUT_S,
    HttpRequest,
    RequestFailed,
    Run,
    Sample,
)
from detserve_perf.load.grpc_connection import GrpcConnection, GrpcFailed
from detserve_perf.load.sockets import connected

_AT_ONCE_BYTES = 2**16

Call = Callable[[int], bytes]
"""Sends the request of this number (they are taken in turn), waits, and returns the raw answer."""

Connect = Callable[[], AbstractContextManager[Call]]


@contextmanager
def http_call(url: str, path: str, requests: Sequence[HttpRequest]) -> Iterator[Call]:
    """POST to ``url`` + ``path`` over one connection. A call raises :class:`RequestFailed`."""
    import httptools

    endpoint = Endpoint.parse(url)
    messages = [
        request_bytes("POST", path, {"Host": endpoint.address, **request.headers}, request.body)
        for request in requests
    ]
    connection: socket.socket | None = None

    def call(number: int) -> bytes:
        nonlocal connection
        try:
            connection = connection or connected(endpoint.host, endpoint.port, TIMEOUT_S)
            answer, reusable = _exchange(connection, messages[number % len(messages)])
        except (OSError, httptools.HttpParserError) as error:
            answer, reusable, failed = None, False, _reason(error)
        if connection is not None and not reusable:
            connection.close()
            connection = None
        if answer is None:
            raise RequestFailed(failed)
        if answer.status != 200:
            raise RequestFailed(f"status {answer.status}: {answer.body[:200].decode(errors='replace')}")
        return answer.body

    try:
        yield call
    finally:
        if connection is not None:
            connection.close()


def _exchange(connection: socket.socket, message: bytes) -> tuple[Answer, bool]:
    """Send a request; its answer, and whether the connection can carry another."""
    connection.sendall(message)
    reader = AnswerReader()
    while not reader.whole:
        received = connection.recv(_AT_ONCE_BYTES)
        if received:
            reader.take(received)
        elif not reader.end():
            raise ConnectionResetError(ENDED_EARLY)
    return reader.answer(), reader.reusable


@contextmanager
def grpc_call(url: str, requests: Sequence[bytes]) -> Iterator[Call]:
    """Call ModelInfer with messages that are serialised already, over one connection."""
    endpoint = Endpoint.parse(url)
    connection: GrpcConnection | None = None

    def call(number: int) -> bytes:
        nonlocal connection
        try:
            if connection is None:
                connection = GrpcConnection(endpoint.host, endpoint.port, GRPC_METHOD, TIMEOUT_S)
            return connection.call(requests[number % len(requests)])
        except GrpcFailed as error:
            raise RequestFailed(str(error)) from None
        except OSError as error:
            if connection is not None:
                connection.close()
                connection = None
            raise RequestFailed(f"UNAVAILABLE: {_reason(error)}") from None

    try:
        yield call
    finally:
        if connection is not None:
            connection.close()


@contextmanager
def callers(connect: Connect, concurrency: int) -> Iterator[Callable[[int], Run]]:
    """``concurrency`` callers that are connected; what is given has them send so many requests together."""
    with ExitStack() as stack, ThreadPoolExecutor(concurrency) as pool:
        calls = [stack.enter_context(connect()) for _ in range(concurrency)]

        def send(requests: int) -> Run:
            numbers = iter(range(requests))  # next() on it is atomic under the GIL
            started_s, cpu_s = time.perf_counter(), time.process_time()

            def keep_calling(call: Call) -> list[Sample]:
                return [_timed(call, number, started_s) for number in numbers]

            samples = [sample for found in pool.map(keep_calling, calls) for sample in found]
            took_s, used_s = time.perf_counter() - started_s, time.process_time() - cpu_s
            samples.sort(key=lambda sample: sample.due_s + sample.latency_s)
            return Run(tuple(samples), took_s, used_s)

        yield send


def _reason(error: Exception) -> str:
    return "timed out" if isinstance(error, BlockingIOError) else str(error)


def _timed(call: Call, number: int, started_s: float) -> Sample:
    due_s = time.perf_counter()
    error = None
    try:
        call(number)
    except RequestFailed as failure:
        error = str(failure)
    return Sample(due_s - started_s, time.perf_counter() - due_s, error)
