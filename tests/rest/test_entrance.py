"""The entrance: how much is let in at a time, and what becomes of a bug."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from detserve_core.endpoint import Endpoint
from detserve_rest.detectors import Detectors
from detserve_rest.entrance import MOST_IN_FLIGHT, guarded
from detserve_rest.problems import CallerGone
from detserve_rest.service import Service, Settings

ENDPOINT = Endpoint.parse("http://localhost:9")
SERVICE = Service(Settings(ENDPOINT), Detectors(ENDPOINT))


async def nothing() -> Any:
    await asyncio.Event().wait()


async def asked(app: Callable[[Scope, Receive, Send], Awaitable[None]], answer: list[Any]) -> None:
    async def send(message: Any) -> None:
        answer.append(message)

    await app({"type": "http", "method": "GET", "path": "/x", "headers": []}, nothing, send)


def test_a_bug_is_a_problem_to_the_caller_and_a_traceback_in_the_log() -> None:
    async def buggy(*_: object) -> None:
        raise ZeroDivisionError("secret of the code")

    answer: list[Any] = []
    with pytest.raises(ZeroDivisionError):
        asyncio.run(asked(guarded(buggy, SERVICE), answer))
    assert answer[0]["status"] == 500
    problem = json.loads(answer[1]["body"])
    assert problem["type"] == "urn:detserve:problem:bug"
    assert "secret" not in str(problem)


def test_nobody_is_answered_who_has_gone() -> None:
    async def gone(*_: object) -> None:
        raise CallerGone

    answer: list[Any] = []
    asyncio.run(asked(guarded(gone, SERVICE), answer))
    assert answer == []


def test_what_is_beyond_the_room_is_refused_and_the_room_is_given_back() -> None:
    async def run() -> list[int]:
        door = asyncio.Event()

        async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
            await door.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})

        app = guarded(waiting, SERVICE)
        answers: list[list[Any]] = [[] for _ in range(MOST_IN_FLIGHT + 3)]
        tasks = [asyncio.create_task(asked(app, answer)) for answer in answers]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        door.set()
        await asyncio.gather(*tasks)
        late: list[Any] = []
        await asked(app, late)
        return [answer[0]["status"] for answer in (*answers, late)]

    assert asyncio.run(run()) == [200] * MOST_IN_FLIGHT + [503] * 3 + [200]
