"""Every exception of the libraries below becomes one of detserve's errors."""

from __future__ import annotations

import asyncio
import errno
import inspect
import socket
import ssl
import threading
from http.client import BadStatusLine, RemoteDisconnected
from types import SimpleNamespace
from typing import Any

import aiohttp
import grpc
import pytest
import urllib3
from aiohttp.client_reqrep import ConnectionKey
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from detserve_client import (
    AsyncDetectionClient,
    Card,
    ContractViolation,
    DeadlineExceeded,
    Detections,
    Endpoint,
    InferenceError,
    ModelNotFound,
    ServerUnavailable,
)
from detserve_client.faults import BY_GRPC_CODE, BY_HTTP_STATUS, error_from_http
from detserve_client.transports import async_http, grpc_messages, http
from tests.client.triton_grpc import grpc_server, infer_response
from tests.client.triton_http import Received, Reply, http_server, infer_reply

HTTP = Endpoint.parse("http://host:8000")
GRPC = Endpoint.parse("grpc://host:8001")


def exceptions_of(module: Any, base: type[BaseException]) -> list[type[BaseException]]:
    found = {kind for _, kind in inspect.getmembers(module, inspect.isclass) if issubclass(kind, base)}
    return sorted(found, key=lambda kind: kind.__name__)


def made(kind: Any) -> Any:
    """An instance, whatever its constructor asks for."""
    key = ConnectionKey("host", 8000, False, None, None, None, None)
    info = aiohttp.RequestInfo(URL("http://host"), "GET", CIMultiDictProxy(CIMultiDict()), URL("http://host"))
    refused = OSError(errno.ECONNREFUSED, "Connection refused")
    certificate = ssl.CertificateError(1, "no")
    for values in (
        ("http://host",) if issubclass(kind, aiohttp.InvalidURL) else (key, refused),
        (key, certificate),
        (info, ()),
        (b"expected", b"got", "host", 8000),
        (None, "/", "some words"),
        (3, 4),
        (SimpleNamespace(tell=lambda: 3, length_remaining=4), b"4"),
        (errno.ECONNRESET, "Connection reset by peer"),
        ("some words", None),
        ("some words",),
    ):
        try:
            error = kind(*values)
            str(error)
        except (TypeError, AttributeError, ValueError):
            continue
        return error
    raise AssertionError(f"{kind} cannot be made")


@pytest.mark.parametrize("kind", exceptions_of(urllib3.exceptions, urllib3.exceptions.HTTPError))
def test_urllib3(kind: type[BaseException]) -> None:
    error = http.mapped(made(kind), HTTP, 2)
    assert isinstance(error, InferenceError)
    assert "http://host:8000" in str(error)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (urllib3.exceptions.ReadTimeoutError(None, "/", "Read timed out"), DeadlineExceeded),  # type: ignore[arg-type]
        (urllib3.exceptions.ConnectTimeoutError("x"), DeadlineExceeded),
        (urllib3.exceptions.ProtocolError("aborted", TimeoutError()), DeadlineExceeded),
        (urllib3.exceptions.ProtocolError("aborted", ConnectionResetError(104, "reset")), ServerUnavailable),
        (urllib3.exceptions.ProtocolError("aborted", RemoteDisconnected("gone")), ServerUnavailable),
        (urllib3.exceptions.ProtocolError("aborted", BadStatusLine("\x00")), ContractViolation),
        (urllib3.exceptions.SSLError("certificate verify failed"), ServerUnavailable),
        (urllib3.exceptions.DecodeError("not gzip"), ContractViolation),
    ],
)
def test_what_urllib3_means(error: Exception, kind: type[InferenceError]) -> None:
    assert type(http.mapped(error, HTTP, 2)) is kind


@pytest.mark.parametrize("kind", exceptions_of(aiohttp, aiohttp.ClientError))
def test_aiohttp(kind: type[BaseException]) -> None:
    error = async_http.mapped(made(kind), HTTP, 2)
    assert isinstance(error, InferenceError)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (asyncio.TimeoutError(), DeadlineExceeded),
        (aiohttp.ServerTimeoutError(), DeadlineExceeded),
        (aiohttp.ServerDisconnectedError(), ServerUnavailable),
        (aiohttp.ClientPayloadError("torn"), ServerUnavailable),
        (aiohttp.ClientOSError(errno.ECONNRESET, "Connection reset by peer"), ServerUnavailable),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), ServerUnavailable),
        (aiohttp.InvalidURL("x"), ContractViolation),
    ],
)
def test_what_aiohttp_means(error: Exception, kind: type[InferenceError]) -> None:
    assert type(async_http.mapped(error, HTTP, 2)) is kind


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_both_kinds_of_grpc_error(code: grpc.StatusCode) -> None:
    metadata = grpc.aio.Metadata()
    error = grpc.aio.AioRpcError(code, metadata, metadata, details="some words")
    assert type(grpc_messages.mapped(error, GRPC, "pets", 2)) is BY_GRPC_CODE[code.name]


async def detected(url: str, *, model: str = "pets", timeout_s: float = 5) -> Detections:
    async with AsyncDetectionClient(url, model) as client:
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
        async with AsyncDetectionClient(url, model) as client:
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
        assert not asyncio.run(AsyncDetectionClient(url, "pets").ready())


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
