"""Every exception of the libraries and connections below becomes one of detserve's errors."""

from __future__ import annotations

import asyncio
import builtins
import errno
import inspect
import socket
import ssl
import threading
from typing import Any

import grpc
import httptools
import pytest

from detserve_client import (
    AsyncClient,
    Card,
    ContractViolation,
    DeadlineExceeded,
    Detections,
    Endpoint,
    InferenceError,
    ModelNotFound,
    ServerUnavailable,
)
from detserve_client.engine.faults import BY_GRPC_CODE, BY_HTTP_STATUS, error_from_http
from detserve_client.transports import grpc_messages, http_messages
from tests.client.transports.triton_grpc import grpc_server, infer_response
from tests.client.transports.triton_http import Received, Reply, http_server, infer_reply

HTTP = Endpoint.parse("http://host:8000")
GRPC = Endpoint.parse("grpc://host:8001")


def exceptions_of(base: type[BaseException], *modules: Any) -> list[type[BaseException]]:
    kinds = {kind for module in modules for _, kind in inspect.getmembers(module, inspect.isclass)}
    return sorted((kind for kind in kinds if issubclass(kind, base)), key=lambda kind: kind.__name__)


OS_ERRORS = exceptions_of(OSError, builtins, socket, ssl, asyncio)
PARSER_ERRORS = exceptions_of(httptools.HttpParserError, httptools)


@pytest.mark.parametrize("values", [(), ("some words",), (errno.ECONNRESET, "Connection reset by peer")])
@pytest.mark.parametrize("kind", [*OS_ERRORS, *PARSER_ERRORS])
def test_every_error_of_a_connection(kind: type[Exception], values: tuple[Any, ...]) -> None:
    error = http_messages.mapped(kind(*values), HTTP, 2)
    assert isinstance(error, InferenceError)
    assert "http://host:8000" in str(error)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (TimeoutError("timed out"), DeadlineExceeded, "within 2 s"),
        (TimeoutError(errno.ETIMEDOUT, "x"), ServerUnavailable, "cannot be reached: Connection timed out"),
        (ssl.SSLEOFError(), ServerUnavailable, "cannot be reached: tls failed"),
        (ConnectionAbortedError(), ServerUnavailable, "cannot be reached: the connection was closed;"),
        (ConnectionResetError(errno.ECONNRESET, "x"), ServerUnavailable, ": Connection reset by peer;"),
        (
            OSError("Multiple exceptions: [Errno 111] Connect call failed (x), [Errno 111] C"),
            ServerUnavailable,
            "cannot be reached: Connection refused;",
        ),
        (OSError(111, "Connect call failed ('127.0.0.1', 8000)"), ServerUnavailable, ": Connection refused;"),
        (socket.gaierror(-2, "Name or service not known"), ServerUnavailable, "Name or service not known"),
        (ssl.SSLError(1, "[SSL: TLSV1_ALERT] x (_ssl.c:12)"), ServerUnavailable, "cannot be reached"),
        (httptools.HttpParserError("Expected HTTP/"), ContractViolation, "does not speak HTTP"),
        (httptools.HttpParserError("Invalid chunk"), ContractViolation, "as a Triton server: Invalid chunk"),
        (httptools.HttpParserUpgrade(12), ContractViolation, "does not answer as a Triton server"),
    ],
)
def test_what_an_error_of_a_connection_means(
    error: Exception, kind: type[InferenceError], words: str
) -> None:
    found = http_messages.mapped(error, HTTP, 2)
    assert type(found) is kind
    assert words in str(found)


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_both_kinds_of_grpc_error(code: grpc.StatusCode) -> None:
    metadata = grpc.aio.Metadata()
    error = grpc.aio.AioRpcError(code, metadata, metadata, details="some words")
    assert type(grpc_messages.mapped(error, GRPC, "pets", 2)) is BY_GRPC_CODE[code.name]


async def detected(url: str, *, model: str = "pets", timeout_s: float = 5) -> Detections:
    async with AsyncClient(url, model) as client:
        await client.card()
        return await client.detect(b"picture", timeout_s=timeout_s)


@pytest.mark.parametrize(("code", "kind"), BY_GRPC_CODE.items())
def test_every_grpc_status_in_an_event_loop(card: Card, code: str, kind: type[InferenceError]) -> None:
    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        context.abort(getattr(grpc.StatusCode, code), "some words")

    with grpc_server(card, answer) as url, pytest.raises(kind) as caught:
        asyncio.run(detected(url, timeout_s=0.5))
    assert type(caught.value) is kind


@pytest.mark.parametrize(("status", "kind"), [*BY_HTTP_STATUS.items(), (302, ContractViolation)])
def test_every_http_status_in_an_event_loop(card: Card, status: int, kind: type[InferenceError]) -> None:
    reply = Reply(status, b"<html>a gateway</html>", {"Location": "http://elsewhere.invalid/"})
    with http_server(card, lambda request: reply) as url, pytest.raises(kind) as caught:
        asyncio.run(detected(url, timeout_s=0.5))
    assert type(caught.value) is kind


@pytest.mark.parametrize("status", [100, *range(201, 227), *range(300, 309), *range(400, 600)])
def test_no_http_status_is_taken_for_an_answer(status: int) -> None:
    error = error_from_http(status, "", url="http://host", model="pets")
    assert type(error) in InferenceError.__subclasses__()


def test_a_picture_and_its_answer_in_an_event_loop(card: Card, found: Detections) -> None:
    pictures = []

    def over_grpc(request: Any, context: grpc.ServicerContext) -> Any:
        pictures.append(request.raw_input_contents[0][4:])
        return infer_response(found)

    def over_http(request: Received) -> Reply:
        pictures.append(request.picture)
        return infer_reply(found)

    async def go(url: str, model: str) -> tuple[bool, Detections | None]:
        async with AsyncClient(url, model) as client:
            ready = await client.ready()
            return ready, await client.detect(b"picture") if ready else None

    with grpc_server(card, over_grpc) as grpc_url, http_server(card, over_http) as http_url:
        for url in (grpc_url, http_url):
            assert asyncio.run(go(url, "pets")) == (True, found)
            assert asyncio.run(go(url, "a/b")) == (False, None)
        with pytest.raises(ModelNotFound):
            asyncio.run(detected(http_url, model="a/b"))
    assert pictures == [b"picture"] * 2


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_nobody_listens_in_an_event_loop(scheme: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"{scheme}://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ServerUnavailable, match=f"^{url} cannot be reached: .*; is the server running"):
            asyncio.run(detected(url))
        assert not asyncio.run(AsyncClient(url, "pets").ready())


def test_no_answer_in_time_in_an_event_loop(card: Card, found: Detections) -> None:
    done = threading.Event()

    def answer(request: Received) -> Reply:
        done.wait(10)
        return infer_reply(found)

    with http_server(card, answer) as url, pytest.raises(DeadlineExceeded, match=r"within 0\.\d+ s"):
        try:
            asyncio.run(detected(url, timeout_s=0.2))
        finally:
            done.set()


@pytest.mark.parametrize(
    "change",
    [
        lambda reply: Reply(body=b"<html>"),
        lambda reply: Reply(body=reply.body[:-3], headers=reply.headers),
        lambda reply: Reply(body=b"\x1f\x8bzipped", headers={**reply.headers, "Content-Encoding": "gzip"}),
    ],
)
def test_an_answer_that_cannot_be_read_in_an_event_loop(card: Card, found: Detections, change: Any) -> None:
    reply = change(infer_reply(found))
    with http_server(card, lambda request: reply) as url:
        with pytest.raises((ContractViolation, ServerUnavailable)):
            asyncio.run(detected(url, timeout_s=0.5))
