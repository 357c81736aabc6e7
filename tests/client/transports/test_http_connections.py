"""Both HTTP clients against peers that are slow, rude or gone."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import suppress

import pytest

from detserve_client import (
    AccessDenied,
    ContractViolation,
    DeadlineExceeded,
    DetectionRequest,
    Endpoint,
    InferenceError,
    RequestRejected,
    ServerUnavailable,
)
from detserve_client.engine.cancellation import Cancellation
from detserve_client.transports import async_transport_to, transport_to
from detserve_client.transports.http_connection import HttpConnection
from tests.client.transports.raw_peer import Answers, peer

OK = b"HTTP/1.1 200 OK\r\n"
ANSWER = OK + b"Content-Length: 3\r\n\r\nabc"
REFUSAL = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"

both = pytest.mark.parametrize("kind", ["threads", "event loop"])


def asked(
    kind: str,
    url: str,
    times: int,
    wait: Callable[[], object] = lambda: None,
    *,
    upload_bytes: int = 0,
    timeout_s: float = 5,
) -> list[object]:
    """What comes of ``times`` requests over one transport; ``wait`` is called after each."""
    key, found = "k" * upload_bytes, list[object]()

    async def in_a_loop() -> None:
        transport = async_transport_to(Endpoint.parse(url))
        for _ in range(times):
            try:
                if upload_bytes:
                    await transport.register_region("r", key, 1, timeout_s)
                found.append(upload_bytes > 0 or await transport.ready("pets", timeout_s))
            except InferenceError as error:
                found.append(error)
            await asyncio.get_running_loop().run_in_executor(None, wait)
            await asyncio.sleep(0.01)  # in which the loop hears of it
        await transport.close()

    def in_a_thread() -> None:
        transport = transport_to(Endpoint.parse(url))
        for _ in range(times):
            try:
                if upload_bytes:
                    transport.register_region("r", key, 1, timeout_s)
                found.append(upload_bytes > 0 or transport.ready("pets", timeout_s))
            except InferenceError as error:
                found.append(error)
            wait()
        transport.close()

    if kind == "event loop":
        asyncio.run(in_a_loop())
    else:
        in_a_thread()
    return found


@both
def test_a_connection_is_used_again(kind: str) -> None:
    answers = Answers([ANSWER] * 3)
    with peer(answers) as url:
        assert asked(kind, url, 3) == [True] * 3
    assert answers.connections == 1


@both
@pytest.mark.parametrize(
    "answer",
    [
        ANSWER,  # the peer closes after it without a word
        ANSWER + b"HTTP/1.1 500 what nobody asked for\r\n\r\n",
        ANSWER + b"garbage",
        b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
    ],
)
def test_a_connection_that_has_ended_is_not_used_again(kind: str, answer: bytes) -> None:
    answers = Answers([answer], [answer], [answer])
    with peer(answers) as url:
        assert asked(kind, url, 3, lambda: answers.closed.acquire(timeout=5)) == [True] * 3
    assert answers.connections == 3


@both
def test_what_nobody_asked_for_is_no_answer_to_the_next(kind: str) -> None:
    """It comes by itself, after the answer was taken."""
    answered, said = threading.Event(), threading.Event()

    def serve(listener: socket.socket) -> None:
        first, _ = listener.accept()
        with first:
            first.recv(65536)
            first.sendall(ANSWER)
            answered.wait(5)
            first.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            said.set()
            second, _ = listener.accept()
            with second:
                second.recv(65536)
                second.sendall(ANSWER)

    def wait() -> None:
        answered.set()
        said.wait(5)

    with peer(serve) as url:
        assert asked(kind, url, 2, wait) == [True, True]


@both
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", ServerUnavailable),
        (ANSWER[:-1], ServerUnavailable),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", ServerUnavailable),
        (OK + b"Content-Length: many\r\n\r\n", ContractViolation),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", AccessDenied),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9000\r\n\r\n" + b"[" * 9000, AccessDenied),
    ],
)
def test_an_answer_with_a_mistake(kind: str, answer: bytes, error: type[InferenceError]) -> None:
    answers = Answers([answer], [ANSWER])
    with peer(answers) as url:
        first, second = asked(kind, url, 2, lambda: answers.closed.acquire(timeout=5))
    assert type(first) is error
    assert second is True


@both
def test_the_deadline_is_for_all_of_an_answer(kind: str) -> None:
    """Something comes every 20 ms, so that no single wait is too long; then the connection is closed."""
    hung_up, seen = threading.Event(), list[bool]()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, suppress(ConnectionError):
            connection.recv(65536)
            connection.sendall(OK)
            end_s = time.monotonic() + 120
            while time.monotonic() < end_s:
                connection.sendall(b"X: y\r\n")
                time.sleep(0.02)
        hung_up.set()

    with peer(serve) as url:
        started_s = time.monotonic()
        (found,) = asked(kind, url, 1, lambda: seen.append(hung_up.wait(60)), timeout_s=0.3)
        assert isinstance(found, DeadlineExceeded)
        assert time.monotonic() - started_s < 60
    assert seen == [True]


@both
@pytest.mark.parametrize("silent", [False, True])
def test_the_next_address_is_tried(kind: str, silent: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with peer(Answers([ANSWER])) as url, socket.socket() as first, socket.socket() as fills_its_queue:
        first.bind(("127.0.0.1", 0))
        if silent:  # a full queue: what else asks for a connection waits
            first.listen(0)
            fills_its_queue.connect(first.getsockname())
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", address)
            for address in (first.getsockname(), ("127.0.0.1", Endpoint.parse(url).port))
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *values, **named: found)
        started_s = time.monotonic()
        assert asked(kind, url, 1, timeout_s=2) == [True]
        assert time.monotonic() - started_s > (0.9 if silent else 0)


@both
def test_no_address_answers(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them together have the time of one."""
    with socket.socket() as silent, socket.socket() as fills_its_queue:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        fills_its_queue.connect(silent.getsockname())
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", silent.getsockname())] * 100
        monkeypatch.setattr(socket, "getaddrinfo", lambda *values, **named: found)
        started_s = time.monotonic()
        (error,) = asked(kind, "http://127.0.0.1:1", 1, timeout_s=0.8)
        assert isinstance(error, DeadlineExceeded)
        assert 0.7 < time.monotonic() - started_s < 40, "not 80 s"


@both
def test_a_refusal_before_all_is_sent(kind: str) -> None:
    """nginx says 413 when a body is too large, waits a moment and closes."""
    with peer(Answers([REFUSAL], linger_s=0.3)) as url:
        (found,) = asked(kind, url, 1, upload_bytes=30_000_000)
    assert type(found) is RequestRejected


def test_an_answer_before_all_is_sent_ends_the_connection() -> None:
    """What is left of the first request would be taken for the second."""
    answers = Answers([REFUSAL], [REFUSAL], linger_s=0.3)
    with peer(answers) as url:
        found = asked("event loop", url, 2, upload_bytes=30_000_000)
    assert [type(one) for one in found] == [RequestRejected] * 2
    assert answers.connections == 2


@both
def test_a_transport_that_is_closed_meanwhile_keeps_no_connection(kind: str) -> None:
    asked_once, answer_now, ended = threading.Event(), threading.Event(), list[bytes]()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            asked_once.set()
            answer_now.wait(5)
            connection.sendall(ANSWER)
            connection.settimeout(5)
            ended.append(connection.recv(1))

    with peer(serve) as url:
        endpoint = Endpoint.parse(url)

        async def in_a_loop() -> None:
            transport = async_transport_to(endpoint)
            asking = asyncio.ensure_future(transport.ready("pets", 5))
            await asyncio.get_running_loop().run_in_executor(None, asked_once.wait, 5)
            await transport.close()
            answer_now.set()
            assert await asking
            await asyncio.sleep(0.1)

        if kind == "event loop":
            asyncio.run(in_a_loop())
        else:
            transport = transport_to(endpoint)
            asking = threading.Thread(target=transport.ready, args=("pets", 5))
            asking.start()
            asked_once.wait(5)
            transport.close()
            answer_now.set()
            asking.join(5)
    assert ended == [b""]


def test_a_cancelled_request_ends_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cancelling thread has found the hook of a request whose answer comes in before it is called."""
    cancellation, late = Cancellation(), list[HttpConnection]()
    exchange = HttpConnection.exchange

    def exchange_then_cancel(connection: HttpConnection, request: bytes, deadline_s: float) -> object:
        answer = exchange(connection, request, deadline_s)
        if not late:
            late.append(connection)
            cancellation._said.set()  # as cancel() does before it calls the hooks that it has found
        return answer

    monkeypatch.setattr(HttpConnection, "exchange", exchange_then_cancel)
    with peer(Answers([ANSWER], [ANSWER])) as url:
        transport = transport_to(Endpoint.parse(url))
        with pytest.raises(CancelledError):
            transport.infer(DetectionRequest("pets", (b"x",), {}), 5, cancellation)
        late[0].end()
        assert transport.ready("pets", 5)
        transport.close()


def test_connecting_can_be_cancelled() -> None:
    with socket.socket() as silent, socket.socket() as fills_its_queue:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        fills_its_queue.connect(silent.getsockname())
        transport = transport_to(Endpoint.parse(f"http://127.0.0.1:{silent.getsockname()[1]}"))
        cancellation = Cancellation()
        threading.Timer(0.3, cancellation.cancel).start()
        started_s = time.monotonic()
        with pytest.raises(CancelledError):
            transport.infer(DetectionRequest("pets", (b"x",), {}), 120, cancellation)
        assert time.monotonic() - started_s < 60


@both
def test_a_closed_transport_says_so(kind: str) -> None:
    endpoint = Endpoint.parse("http://127.0.0.1:1")

    async def in_a_loop() -> None:
        transport = async_transport_to(endpoint)
        await transport.close()
        with pytest.raises(ValueError, match="the client is closed"):
            await transport.ready("pets", 1)

    if kind == "event loop":
        asyncio.run(in_a_loop())
        return
    transport = transport_to(endpoint)
    transport.close()
    with pytest.raises(ValueError, match="the client is closed"):
        transport.ready("pets", 1)
