"""One picture through one detector, for whichever route asks."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from detserve_client.engine.call_headers import call_headers
from detserve_core.detections import Detections
from detserve_rest.detectors import TIMEOUT_S
from detserve_rest.entrance import caller_of
from detserve_rest.problems import CallerGone, Problem
from detserve_rest.service import service_of

_Result = TypeVar("_Result")
#: Who has waited for less has most likely not gone, and looking takes time.
_LOOK_AFTER_S = 0.05


async def detections_in(
    request: Request,
    model: str,
    picture: bytes,
    *,
    score: float | None = None,
    iou: float | None = None,
    most: int | None = None,
) -> Detections:
    """What the detector finds, asked in the caller's name; the request's body has been read.

    Raises:
        Problem: the caller may not use it, there is none, or ``most`` is more than it gives.
        InferenceError: the server gives no detections.
        CallerGone: the caller closed the connection before the answer was there.
    """
    caller = caller_of(request)
    caller.require(model)
    with call_headers(caller.headers):
        detector = await service_of(request).detectors.of(model)
        rows = detector.card.thresholds.max_detections
        if most is not None and most > rows:
            raise Problem("bad-parameter", f"max is {most}; {model} gives {rows} detections at most")
        call = detector.client.detect(
            picture, score_threshold=score, iou_threshold=iou, max_detections=most, timeout_s=TIMEOUT_S
        )
        return await while_the_caller_waits(request, call)


async def while_the_caller_waits(request: Request, call: Coroutine[Any, Any, _Result]) -> _Result:
    """What the call returns. It is cancelled when the caller closes the connection.

    Raises:
        CallerGone: that happened.
    """
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    watcher: asyncio.Task[None] | None = None
    gone = False

    async def watch() -> None:
        nonlocal gone
        await _gone(request)
        gone = True
        if task is not None:
            task.cancel()

    def look() -> None:
        nonlocal watcher
        watcher = loop.create_task(watch())

    timer = loop.call_later(_LOOK_AFTER_S, look)
    try:
        return await call
    except asyncio.CancelledError:
        if not gone:
            raise
        raise CallerGone from None
    finally:
        timer.cancel()
        if watcher is not None:
            watcher.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
