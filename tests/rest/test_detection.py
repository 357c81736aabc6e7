"""A call whose caller goes away."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import Request

from detserve_rest.detection import while_the_caller_waits
from detserve_rest.problems import CallerGone


def request(*messages: dict[str, Any]) -> Request:
    left = list(messages)

    async def receive() -> Any:
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    return Request({"type": "http", "headers": []}, receive)


def test_the_call_is_cancelled() -> None:
    async def run() -> bool:
        cancelled = asyncio.Event()

        async def call() -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.set()
                raise

        gone = request({"type": "http.request"}, {"type": "http.disconnect"})
        with pytest.raises(CallerGone):
            await while_the_caller_waits(gone, call())
        await asyncio.wait_for(cancelled.wait(), 5)
        return True

    assert asyncio.run(run())


@pytest.mark.parametrize("takes_s", [0.0, 0.1])
def test_who_stays_gets_the_answer_or_the_error(takes_s: float) -> None:
    async def call(value: int) -> float:
        await asyncio.sleep(takes_s)
        return 1 / value

    async def run(value: int) -> float:
        return await while_the_caller_waits(request(), call(value))

    assert asyncio.run(run(1)) == 1
    with pytest.raises(ZeroDivisionError):
        asyncio.run(run(0))
