"""One asynchronous client in one event loop after another."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from detserve_client import AsyncClient, Card, Detections
from tests.client.forking import in_a_child
from tests.client.transports.triton_grpc import grpc_server, infer_response
from tests.client.transports.triton_http import http_server, infer_reply


@pytest.fixture(params=["grpc", "http"])
def server(request: pytest.FixtureRequest, card: Card, found: Detections) -> Any:
    if request.param == "grpc":
        return grpc_server(card, lambda request, context: infer_response(found))
    return http_server(card, lambda request: infer_reply(found))


def test_each_run_has_a_loop_of_its_own(server: Any, found: Detections) -> None:
    with server as url:
        client = AsyncClient(url, "pets", timeout_s=10)
        for _ in range(3):
            assert asyncio.run(client.detect(b"picture")) == found
        asyncio.run(client.close())
        with pytest.raises(ValueError, match="the client is closed"):
            asyncio.run(client.detect(b"picture"))


def test_two_loops_at_a_time(server: Any, found: Detections) -> None:
    answers: list[Detections] = []

    def run(detect: Callable[[bytes], Any]) -> None:
        async def go() -> None:
            for _ in range(20):
                answers.append(await detect(b"picture"))

        asyncio.run(go())

    with server as url:
        client = AsyncClient(url, "pets", timeout_s=10)
        threads = [threading.Thread(target=run, args=(client.detect,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        asyncio.run(client.close())
    assert answers == [found] * 40


def test_a_fork_uses_it_or_is_told_why_not(server: Any, found: Detections) -> None:
    with server as url:
        client = AsyncClient(url, "pets", timeout_s=10)
        assert asyncio.run(client.detect(b"picture")) == found
        sentence = in_a_child(lambda: asyncio.run(client.detect(b"picture")))
        assert ("cannot be used on both sides of a fork" in sentence) == url.startswith("grpc")
        assert sentence == "" or url.startswith("grpc")
        assert asyncio.run(client.detect(b"picture")) == found
