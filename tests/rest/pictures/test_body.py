"""Bodies that do not come to an end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import Request

from detserve_rest.pictures.body import whole_body
from detserve_rest.problems import Problem


def test_a_body_that_stops_halfway_gives_its_place_back() -> None:
    parts = [{"type": "http.request", "body": b"half", "more_body": True}]

    async def receive() -> Any:
        if not parts:
            await asyncio.Event().wait()
        return parts.pop()

    async def run() -> bytes:
        request = Request({"type": "http", "headers": []}, receive)
        return await whole_body(request, 100, timeout_s=0.05)

    with pytest.raises(Problem) as caught:
        asyncio.run(run())
    assert caught.value.status == 408
    assert caught.value.headers == {"connection": "close"}


def test_a_task_that_is_cancelled_by_others_stays_cancelled() -> None:
    async def receive() -> Any:
        await asyncio.Event().wait()

    async def run() -> None:
        request = Request({"type": "http", "headers": []}, receive)
        task = asyncio.create_task(whole_body(request, 100))
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(run())
