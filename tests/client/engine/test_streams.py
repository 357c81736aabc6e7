"""detect_stream and detect_batch of both clients over a server in memory."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from detserve_client import (
    AsyncClient,
    AsyncFakeTransport,
    Card,
    Client,
    DetectionRequest,
    Detections,
    FakeTransport,
    MissingExtra,
    Outcome,
    RequestRejected,
    ServerFault,
    SourceError,
)
from detserve_client.engine.cancellation import Cancellation
from detserve_client.engine.wire import Outputs
from tests.client.forking import in_a_child

Answer = Callable[[DetectionRequest], Detections]


def client_of(card: Card, answer: Answer) -> Client:
    return Client("grpc://fake", "pets", transport=FakeTransport(card, answer))


def threaded(card: Card, answer: Answer, sources: Iterable[Any], **options: Any) -> list[Outcome]:
    with client_of(card, answer) as client:
        return list(client.detect_stream(sources, **options))


def asynchronous(card: Card, answer: Answer, sources: Iterable[Any], **options: Any) -> list[Outcome]:
    async def go() -> list[Outcome]:
        transport = AsyncFakeTransport(card, answer)
        async with AsyncClient("grpc://fake", "pets", transport=transport) as client:
            return [outcome async for outcome in client.detect_stream(sources, **options)]

    return asyncio.run(go())


Stream = Callable[..., list[Outcome]]
both = pytest.mark.parametrize("stream", [threaded, asynchronous])


def numbered(count: int) -> list[Any]:
    return [str(number).encode() for number in range(count)]


@both
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("name", ["absent.jpg", "nul\0.jpg", "surrogate\ud800.jpg"])
def test_one_bad_picture_fails_alone(
    card: Card, tmp_path: Path, stream: Stream, ordered: bool, name: str
) -> None:
    def answer(request: DetectionRequest) -> Detections:
        number = int(request.picture)
        if number == 4:
            raise RequestRejected("the picture is rejected: torn")
        return Detections.empty(card.labels)

    sources = numbered(12)
    sources[7] = tmp_path / name
    outcomes = stream(card, answer, sources, window=4, ordered=ordered)
    if not ordered:
        outcomes.sort(key=lambda outcome: outcome.index)
    assert [outcome.index for outcome in outcomes] == list(range(12))
    assert [outcome.source for outcome in outcomes] == sources
    errors = {outcome.index: type(outcome.error) for outcome in outcomes if outcome.error is not None}
    assert errors == {4: RequestRejected, 7: SourceError}
    with pytest.raises(RequestRejected, match="torn"):
        outcomes[4].get()
    assert outcomes[0].get() == Detections.empty(card.labels)
    assert all(outcome.latency_s for outcome in outcomes if outcome.error is None)


def test_as_completed_does_not_wait_for_a_slow_one(card: Card) -> None:
    release = threading.Event()

    def answer(request: DetectionRequest) -> Detections:
        if request.picture == b"0":
            assert release.wait(10)
        return Detections.empty(card.labels)

    with client_of(card, answer) as client:
        stream = client.detect_stream(numbered(9), window=3, ordered=False)
        first = [next(stream).index for _ in range(8)]
        release.set()
        assert sorted(first) == list(range(1, 9))
        assert [outcome.index for outcome in stream] == [0]


def test_in_order_the_slow_one_is_waited_for(card: Card) -> None:
    def answer(request: DetectionRequest) -> Detections:
        time.sleep(0.02 if int(request.picture) % 3 == 0 else 0)
        return Detections.empty(card.labels)

    assert [outcome.index for outcome in threaded(card, answer, numbered(12), window=4)] == list(range(12))


def test_no_more_than_the_window_is_under_way(card: Card) -> None:
    under_way, most, lock = 0, 0, threading.Lock()
    all_in = threading.Barrier(3)

    def answer(request: DetectionRequest) -> Detections:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        all_in.wait(timeout=10)
        with lock:
            under_way -= 1
        return Detections.empty(card.labels)

    assert all(outcome.error is None for outcome in threaded(card, answer, [b"picture"] * 9, window=3))
    assert most == 3


@pytest.mark.parametrize("ordered", [True, False])
def test_the_source_is_read_no_further_than_the_window(card: Card, ordered: bool) -> None:
    taken = 0

    def sources() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield b"picture"

    with client_of(card, lambda request: Detections.empty(card.labels)) as client:
        stream = client.detect_stream(sources(), window=3, ordered=ordered)
        assert taken == 0
        for yielded in range(40):
            assert taken <= yielded + 3
            next(stream)
        stream.close()  # type: ignore[attr-defined]


def test_the_asynchronous_source_is_read_no_further_than_the_window(card: Card) -> None:
    taken = 0

    async def sources() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield b"picture"

    async def go() -> None:
        transport = AsyncFakeTransport(card, lambda request: Detections.empty(card.labels))
        client = AsyncClient("grpc://fake", "pets", transport=transport)
        async with aclosing(client.detect_stream(sources(), window=3)) as stream:
            for yielded in range(40):
                assert taken <= yielded + 3
                await anext(stream)

    asyncio.run(go())


@both
@pytest.mark.parametrize("ordered", [True, False])
def test_a_source_that_fails_loses_nothing(card: Card, stream: Stream, ordered: bool) -> None:
    seen = []

    def sources() -> Iterator[bytes]:
        yield from numbered(5)
        raise KeyError("a bug")

    def answer(request: DetectionRequest) -> Detections:
        time.sleep(0.01)
        seen.append(request.picture)
        return Detections.empty(card.labels)

    with pytest.raises(KeyError, match="a bug"):
        stream(card, answer, sources(), window=4, ordered=ordered)
    assert sorted(seen) == numbered(5)


@both
def test_a_bug_on_the_way_is_raised(card: Card, stream: Stream) -> None:
    def answer(request: DetectionRequest) -> Detections:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError):
        stream(card, answer, numbered(20), window=4)


@both
def test_a_missing_library_is_not_said_once_for_each_picture(card: Card, stream: Stream) -> None:
    def answer(request: DetectionRequest) -> Detections:
        raise MissingExtra("opencv-python", "draw")

    with pytest.raises(MissingExtra):
        stream(card, answer, numbered(20), window=4)


class WaitingTransport(FakeTransport):
    """Its requests wait until they are cancelled; the first is answered when four others wait."""

    def __init__(self, card: Card) -> None:
        super().__init__(card, lambda request: Detections.empty(card.labels))
        self.all_in = threading.Barrier(5)
        self.cancelled = 0
        self._lock = threading.Lock()

    def infer(
        self, request: DetectionRequest, timeout_s: float, cancellation: Cancellation | None = None
    ) -> Outputs:
        assert cancellation is not None
        ended = threading.Event()
        with cancellation.on_cancel(ended.set):
            self.all_in.wait(10)
            if request.picture != b"0":
                assert ended.wait(10), "not cancelled"
                with self._lock:
                    self.cancelled += 1
                cancellation.check()
        return super().infer(request, timeout_s)


def test_leaving_early_cancels_what_is_under_way_and_leaves_no_thread(card: Card) -> None:
    transport = WaitingTransport(card)
    before = threading.active_count()
    with Client("grpc://fake", "pets", transport=transport) as client:
        for _ in client.detect_stream(numbered(100), window=5):
            break
        assert threading.active_count() == before
    assert transport.cancelled == 4


def test_leaving_early_cancels_tasks(card: Card) -> None:
    cancelled = 0

    class Waiting(AsyncFakeTransport):
        async def infer(self, request: DetectionRequest, timeout_s: float) -> Outputs:
            nonlocal cancelled
            if request.picture == b"0":
                await asyncio.sleep(0.05)
            else:
                try:
                    await asyncio.sleep(10)
                except asyncio.CancelledError:
                    cancelled += 1
                    raise
            return await super().infer(request, timeout_s)

    async def go() -> None:
        transport = Waiting(card, lambda request: Detections.empty(card.labels))
        client = AsyncClient("grpc://fake", "pets", transport=transport)
        async with aclosing(client.detect_stream(numbered(100), window=5)) as outcomes:
            async for _ in outcomes:
                break
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(go())
    assert cancelled == 4


def test_an_outcome_does_not_wait_for_the_next_picture_of_an_asynchronous_source(card: Card) -> None:
    async def go() -> None:
        asked = asyncio.Event()

        async def camera() -> AsyncIterator[bytes]:
            yield b"0"
            await asked.wait()
            yield b"1"

        transport = AsyncFakeTransport(card, lambda request: Detections.empty(card.labels))
        client = AsyncClient("grpc://fake", "pets", transport=transport)
        stream = client.detect_stream(camera(), window=4)
        assert (await asyncio.wait_for(anext(stream), 5)).index == 0
        asked.set()
        assert [outcome.index async for outcome in stream] == [1]

    asyncio.run(go())


@pytest.mark.parametrize("kind", ["threads", "event loop"])
def test_a_batch_travels_in_as_few_requests_as_it_can(card: Card, tmp_path: Path, kind: str) -> None:
    sizes: list[int] = []
    bad = {3, 10}

    def answer(request: DetectionRequest) -> Detections:
        if int(request.picture) in bad:
            raise RequestRejected("the picture is rejected: torn")
        return Detections.empty(card.labels)

    class Counting(FakeTransport):
        def infer(self, request: DetectionRequest, *values: Any) -> Outputs:
            sizes.append(request.count)
            return super().infer(request, *values)

    class AsyncCounting(AsyncFakeTransport):
        async def infer(self, request: DetectionRequest, timeout_s: float) -> Outputs:
            sizes.append(request.count)
            return await super().infer(request, timeout_s)

    sources = numbered(20)
    sources[12] = tmp_path / "absent.jpg"

    async def go() -> list[Outcome]:
        client = AsyncClient("grpc://fake", "pets", transport=AsyncCounting(card, answer))
        return await client.detect_batch(sources)

    if kind == "threads":
        with Client("grpc://fake", "pets", transport=Counting(card, answer)) as client:
            outcomes = client.detect_batch(sources)
            assert client.detect_batch([]) == []
    else:
        outcomes = asyncio.run(go())
    assert [outcome.index for outcome in outcomes] == list(range(20))
    assert [outcome.source for outcome in outcomes] == sources
    assert {o.index: type(o.error) for o in outcomes if o.error} == {
        3: RequestRejected,
        10: RequestRejected,
        12: SourceError,
    }
    assert sizes == [8, *[1] * 8, 7, *[1] * 7, 4]


def test_a_batch_that_fails_fails_each_of_its_pictures(card: Card) -> None:
    def answer(request: DetectionRequest) -> Detections:
        raise ServerFault("boom")

    with client_of(card, answer) as client:
        outcomes = client.detect_batch(numbered(3))
    assert [type(outcome.error) for outcome in outcomes] == [ServerFault] * 3


@pytest.mark.parametrize("ordered", [True, False])
def test_a_stream_is_read_by_the_process_that_began_it(card: Card, ordered: bool) -> None:
    """A fork has none of the threads that would finish what is in flight."""
    with client_of(card, lambda request: Detections.empty(card.labels)) as client:
        outcomes = client.detect_stream([b"picture"] * 20, window=4, ordered=ordered)
        assert next(outcomes).ok
        sentence = in_a_child(lambda: list(outcomes))
        assert "forked after they were asked for" in sentence
        assert in_a_child(lambda: client.detect([b"picture"] * 20)) == ""
        assert len(list(outcomes)) == 19
