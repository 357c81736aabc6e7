"""HTTP answers in every form a server or a proxy gives them, in pieces of any size."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detserve_client import (
    AccessDenied,
    ContractViolation,
    InferenceError,
    RequestRejected,
    ServerUnavailable,
)
from detserve_client.endpoint import Endpoint
from detserve_client.transports import async_transport_to, transport_to
from detserve_client.transports.http_exchange import AnswerReader, request_bytes

OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = OK + b"Content-Length: 3\r\nX-Name: Value\r\n\r\nabc"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
CONTINUED = b"HTTP/1.1 100 Continue\r\nX-Name: Interim\r\n\r\n" + LENGTH


def in_pieces(message: bytes, ends: list[int]) -> AnswerReader:
    reader = AnswerReader()
    places = sorted({0, len(message), *(end % len(message) for end in ends)})
    for start, end in pairwise(places):
        reader.take(message[start:end])
    return reader


@pytest.mark.parametrize("message", [LENGTH, CHUNKED, CONTINUED])
@given(ends=st.lists(st.integers(0, 300), max_size=8))
def test_an_answer_in_any_pieces(message: bytes, ends: list[int]) -> None:
    reader = in_pieces(message, ends)
    assert (reader.whole, reader.reusable) == (True, True)
    answer = reader.answer()
    assert (answer.status, answer.body) == (200, b"abc")
    assert answer.headers.get("x-name") == (None if message is CHUNKED else "Value")


@pytest.mark.parametrize("message", [LENGTH, CHUNKED, CONTINUED])
@given(length=st.integers(0, 300))
def test_a_part_is_no_answer(message: bytes, length: int) -> None:
    reader = AnswerReader()
    reader.take(message[: length % len(message)])
    assert not reader.whole
    assert not reader.end()


@pytest.mark.parametrize(
    ("message", "status", "body"),
    [
        (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", 200, b"abc"),
        (OK + b"Content-Length: 3\r\nConnection: close\r\n\r\nabc", 200, b"abc"),
        (LENGTH + LENGTH.replace(b"abc", b"def").replace(b"200", b"500"), 200, b"abc"),
        (OK + b"\r\nuntil the end", 200, b"until the end"),
    ],
)
def test_a_connection_that_cannot_be_used_again(message: bytes, status: int, body: bytes) -> None:
    reader = AnswerReader()
    assert reader.take(message) or reader.end()
    assert (reader.answer().status, reader.answer().body, reader.reusable) == (status, body, False)


@pytest.mark.parametrize(
    "message",
    [
        b"\0\0\x18\x04\0\0\0\0\0",
        b"SSH-2.0-OpenSSH\r\n",
        OK + b"Content-Length: many\r\n\r\n",
        OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
        OK + b"Transfer-Encoding: chunked\r\n\r\nnothing\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    ],
)
def test_what_is_no_answer(message: bytes) -> None:
    with pytest.raises(httptools.HttpParserError):
        AnswerReader().take(message)


def test_a_request() -> None:
    assert request_bytes("GET", "/a", {"Host": "h:1"}) == b"GET /a HTTP/1.1\r\nHost: h:1\r\n\r\n"
    assert request_bytes("POST", "/a", {}, b"xy") == b"POST /a HTTP/1.1\r\nContent-Length: 2\r\n\r\nxy"
    assert request_bytes("POST", "/a", {}) == b"POST /a HTTP/1.1\r\nContent-Length: 0\r\n\r\n"


class Peer:
    """Answers each connection with what it is told, after it has read a request's head; counts them."""

    def __init__(self, listener: socket.socket, answers: list[list[bytes]]) -> None:
        self._listener, self._answers = listener, answers
        self.connections = 0

    def serve(self) -> None:
        with suppress(OSError):
            for answers in self._answers:
                peer, _ = self._listener.accept()
                self.connections += 1
                with peer, suppress(ConnectionError):
                    for answer in answers:
                        if not peer.recv(65536):
                            break
                        peer.sendall(answer)


@contextmanager
def peer_with(*answers: list[bytes]) -> Iterator[tuple[Peer, str]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = Peer(listener, list(answers))
        thread = threading.Thread(target=peer.serve, daemon=True)
        thread.start()
        yield peer, f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def asked(kind: str, url: str, times: int) -> list[bool | InferenceError]:
    """Whether a model is ready, ``times`` times over one transport."""
    found: list[bool | InferenceError] = []

    async def in_a_loop() -> None:
        transport = async_transport_to(Endpoint.parse(url))
        for _ in range(times):
            try:
                found.append(await transport.ready("pets", 2))
            except InferenceError as error:
                found.append(error)
            await asyncio.sleep(0.05)  # in which a server closes a connection
        await transport.close()

    if kind == "event loop":
        asyncio.run(in_a_loop())
        return found
    transport = transport_to(Endpoint.parse(url))
    for _ in range(times):
        try:
            found.append(transport.ready("pets", 2))
        except InferenceError as error:
            found.append(error)
        threading.Event().wait(0.05)
    transport.close()
    return found


both = pytest.mark.parametrize("kind", ["threads", "event loop"])


@both
def test_a_connection_is_used_again(kind: str) -> None:
    with peer_with([LENGTH] * 3) as (peer, url):
        assert asked(kind, url, 3) == [True] * 3
    assert peer.connections == 1


@both
@pytest.mark.parametrize(
    "answer",
    [
        LENGTH,  # the peer closes after it without a word
        LENGTH + b"HTTP/1.1 500 what nobody asked for\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
    ],
)
def test_a_connection_that_has_ended_is_not_used_again(kind: str, answer: bytes) -> None:
    with peer_with(*([answer] for _ in range(3))) as (peer, url):
        assert asked(kind, url, 3) == [True] * 3
    assert peer.connections == 3


@both
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", ServerUnavailable),
        (LENGTH[:-1], ServerUnavailable),
        (CHUNKED[:-5], ServerUnavailable),
        (OK + b"Content-Length: many\r\n\r\n", ContractViolation),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", AccessDenied),
    ],
)
def test_an_answer_with_a_mistake(kind: str, answer: bytes, error: type[InferenceError]) -> None:
    with peer_with([answer], [LENGTH]) as (_, url):
        first, second = asked(kind, url, 2)
    assert type(first) is error
    assert second is True


@both
def test_a_refusal_before_all_is_sent(kind: str) -> None:
    """nginx says 413 when a body is too large, reads on for a while and closes."""
    endpoint_ready = threading.Event()
    refusal = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    urls: list[str] = []

    def serve() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            urls.append(f"http://127.0.0.1:{listener.getsockname()[1]}")
            endpoint_ready.set()
            peer, _ = listener.accept()
            with peer, suppress(ConnectionError):
                peer.recv(1000)
                peer.sendall(refusal)
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(2**20):
                    pass

    async def in_a_loop(endpoint: Endpoint) -> None:
        transport = async_transport_to(endpoint)
        try:
            await transport.register_region("x", "y" * 20_000_000, 1, 5)
        finally:
            await transport.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    assert endpoint_ready.wait(5)
    with pytest.raises(RequestRejected):
        if kind == "event loop":
            asyncio.run(in_a_loop(Endpoint.parse(urls[0])))
        else:
            transport_to(Endpoint.parse(urls[0])).register_region("x", "y" * 20_000_000, 1, 5)
    thread.join(5)
    assert not thread.is_alive()


@both
def test_a_closed_transport_says_so(kind: str) -> None:
    async def in_a_loop() -> None:
        transport = async_transport_to(Endpoint.parse("http://127.0.0.1:1"))
        await transport.close()
        await transport.ready("pets", 1)

    with pytest.raises(ValueError, match="the client is closed"):
        if kind == "event loop":
            asyncio.run(in_a_loop())
        transport = transport_to(Endpoint.parse("http://127.0.0.1:1"))
        transport.close()
        transport.ready("pets", 1)
