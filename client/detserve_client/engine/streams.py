"""Many pictures with a bounded number of them in flight: threads, and back-pressure to the source."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Protocol

from detserve_client.engine.cancellation import Cancellation
from detserve_client.pictures.encoding import PictureSource
from detserve_client.results.outcomes import Outcome
from detserve_core.errors import InferenceError

OutcomeOf = Callable[[int, PictureSource, Cancellation], Outcome]
"""Turns the source of an index into its outcome; ends early with ``CancelledError``."""


def stream(
    outcome_of: OutcomeOf, sources: Iterable[PictureSource], *, window: int, ordered: bool
) -> Generator[Outcome, None, None]:
    """Yield one outcome for each source, ``window`` of them in flight or finished and not yet yielded.

    The source is read by the thread that reads the outcomes, and not before there is room. When it raises,
    the outcomes in flight come first. When the consumer stops, what is in flight is cancelled, and every
    thread has ended when the generator is closed.
    """
    cancellation = Cancellation()
    process = os.getpid()
    pool = ThreadPoolExecutor(window, thread_name_prefix="detserve-client")
    under_way: _UnderWay = _InOrder() if ordered else _AsCompleted()
    source_error: Exception | None = None
    try:
        iterator = enumerate(sources)
        while True:
            _require_process(process)
            try:
                index, source = next(iterator)
            except StopIteration:
                break
            except Exception as error:
                source_error = error
                break
            under_way.add(pool.submit(outcome_of, index, source, cancellation))
            while under_way and (len(under_way) == window or under_way.ready()):
                yield under_way.pop().result()
        while under_way:
            _require_process(process)
            yield under_way.pop().result()
        if source_error is not None:
            raise source_error
    finally:
        if os.getpid() == process:  # a fork has no threads to wait for
            cancellation.cancel()
            pool.shutdown(wait=True, cancel_futures=True)


def _require_process(process: int) -> None:
    if os.getpid() != process:
        raise InferenceError(
            "outcomes are read in a process that was forked after they were asked for; "
            "the requests are their parent's: begin the stream in the child"
        )


class _UnderWay(Protocol):
    def add(self, future: Future[Outcome]) -> None: ...
    def ready(self) -> bool: ...
    def pop(self) -> Future[Outcome]: ...
    def __len__(self) -> int: ...


class _InOrder:
    def __init__(self) -> None:
        self._futures: deque[Future[Outcome]] = deque()

    def add(self, future: Future[Outcome]) -> None:
        self._futures.append(future)

    def ready(self) -> bool:
        return self._futures[0].done()

    def pop(self) -> Future[Outcome]:
        return self._futures.popleft()

    def __len__(self) -> int:
        return len(self._futures)


class _AsCompleted:
    def __init__(self) -> None:
        self._done: SimpleQueue[Future[Outcome]] = SimpleQueue()
        self._count = 0

    def add(self, future: Future[Outcome]) -> None:
        self._count += 1
        future.add_done_callback(self._done.put)

    def ready(self) -> bool:
        return not self._done.empty()

    def pop(self) -> Future[Outcome]:
        self._count -= 1
        return self._done.get()

    def __len__(self) -> int:
        return self._count
