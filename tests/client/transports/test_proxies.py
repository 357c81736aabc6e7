"""What the environment's proxies do to each client, with a proxy that only counts who comes."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from detserve_client import AsyncClient, Card, Client, Detections, InferenceError, ServerUnavailable
from tests.client.transports.triton_grpc import grpc_server, infer_response
from tests.client.transports.triton_http import http_server, infer_reply

VARIABLES = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """The first lines that a proxy gets which answers 403 to all; the environment leads there."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    lines: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    lines.append(connection.recv(65536).partition(b"\r\n")[0])
                    connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

        threading.Thread(target=serve, daemon=True).start()
        for name in VARIABLES:
            monkeypatch.setenv(name, f"http://127.0.0.1:{listener.getsockname()[1]}")
        yield lines
        listener.shutdown(socket.SHUT_RDWR)


def detect(kind: str, url: str) -> Detections:
    async def go() -> Detections:
        async with AsyncClient(url, "pets", timeout_s=10) as client:
            return await client.detect(b"picture")

    if kind == "event loop":
        return asyncio.run(go())
    with Client(url, "pets", timeout_s=10) as client:
        return client.detect(b"picture")


@pytest.mark.parametrize("kind", ["threads", "event loop"])
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_server_of_this_machine_is_reached(
    card: Card, found: Detections, asked: list[bytes], protocol: str, kind: str
) -> None:
    serving: Any = (
        grpc_server(card, lambda request, context: infer_response(found))
        if protocol == "grpc"
        else http_server(card, lambda request: infer_reply(found))
    )
    with serving as url:
        assert detect(kind, url) == found
    assert asked == []


@pytest.mark.parametrize("kind", ["threads", "event loop"])
def test_a_proxy_in_the_way_is_named(asked: list[bytes], kind: str) -> None:
    with pytest.raises(InferenceError, match=r"the proxy 127\.0\.0\.1:\d+ of grpc_proxy; .* to no_proxy$"):
        detect(kind, "grpc://gpu7.example.org:8001")
    assert asked[0].startswith(b"CONNECT gpu7.example.org:8001")


@pytest.mark.parametrize("kind", ["threads", "event loop"])
def test_a_proxy_that_http_does_not_take_is_named(asked: list[bytes], kind: str) -> None:
    with pytest.raises(ServerUnavailable, match="behind the proxy of http_proxy, which is not used here"):
        detect(kind, "http://gpu7.invalid:8000")
    assert asked == []
