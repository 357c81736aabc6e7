"""Many pictures with a bounded number of them in flight: tasks of one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

from detserve_client.pictures.encoding import PictureSource
from detserve_client.results.outcomes import Outcome

OutcomeOf = Callable[[int, PictureSource], Awaitable[Outcome]]


async def stream(
    outcome_of: OutcomeOf,
    sources: Iterable[PictureSource] | AsyncIterable[PictureSource],
    *,
    window: int,
    ordered: bool,
) -> AsyncGenerator[Outcome, None]:
    """Yield one outcome for each source, ``window`` of them in flight or finished and not yet yielded.

    An outcome is yielded when it is there, whether or not an asynchronous source has its next picture ready.
    When the source raises, the outcomes in flight come first. When the consumer stops, what is in flight is
    cancelled and has ended when the generator is closed.
    """
    iterator = aiter(sources) if isinstance(sources, AsyncIterable) else _asynchronous(sources)
    under_way: dict[asyncio.Future[Outcome], None] = {}
    reading: asyncio.Future[PictureSource] | None = None
    source_error: BaseException | None = None
    count, exhausted = 0, False
    try:
        while True:
            if reading is None and not exhausted and len(under_way) < window:
                reading = asyncio.ensure_future(anext(iterator))
            awaited: set[asyncio.Future[Any]] = set(list(under_way)[:1] if ordered else under_way)
            if reading is not None:
                awaited.add(reading)
            if not awaited:
                break
            done, _ = await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            if reading is not None and reading in done:
                done.discard(reading)
                source_error = reading.exception()
                exhausted = source_error is not None
                if not exhausted:
                    under_way[asyncio.ensure_future(outcome_of(count, reading.result()))] = None
                    count += 1
                reading = None
            for task in done:
                del under_way[task]
                yield task.result()
        if source_error is not None and not isinstance(source_error, StopAsyncIteration):
            raise source_error
    finally:
        left: list[asyncio.Future[Any]] = [*under_way, *([reading] if reading is not None else [])]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def _asynchronous(sources: Iterable[PictureSource]) -> AsyncIterator[PictureSource]:
    for source in sources:
        yield source
