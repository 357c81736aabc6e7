from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from threading import Event, Semaphore

import numpy as np
import pytest

from detserve_client import SourceError
from detserve_client.video.frames import Frame, VideoInput
from detserve_client.video.live import LatestFrames, reconnect_pauses_s


class Script:
    """A source that sends so many frames and dies, or raises what is not its failure.

    A frame comes ``pause_s`` after the one before, and where there is a ``wanted`` when that lets it.
    """

    fps = 50.0

    def __init__(
        self,
        frames: int,
        pause_s: float = 0.0,
        bug: Exception | None = None,
        wanted: Semaphore | None = None,
    ) -> None:
        self.count, self.pause_s, self.bug, self.wanted = frames, pause_s, bug, wanted
        self.made = 0
        self.closed = False

    def frames(self) -> Iterator[Frame]:
        for index in range(self.count):
            time.sleep(self.pause_s)
            assert self.wanted is None or self.wanted.acquire(timeout=60)
            pixels = np.full((2, 2, 3), index % 256, np.uint8)
            self.made += 1
            yield Frame(index, 99.0, pixels, time.perf_counter())
        if self.bug is not None:
            raise self.bug
        raise SourceError("the camera broke off")

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def said() -> list[str]:
    return []


def connecting(*scripts: Script | SourceError) -> Callable[[], VideoInput]:
    left = iter(scripts)

    def connect() -> VideoInput:
        script = next(left)
        if isinstance(script, SourceError):
            raise script
        return script

    return connect


def latest(connect: Callable[[], VideoInput], said: list[str], stopping: Event | None = None) -> LatestFrames:
    return LatestFrames(connect, say=said.append, stopping=stopping or Event(), while_waiting=lambda: None)


def test_a_slow_reader_gets_the_newest_and_the_rest_is_counted(said: list[str]) -> None:
    camera = Script(10**9, pause_s=0.005)
    video = latest(connecting(camera), said)
    taken, frames, ends_s = [], video.frames(), time.monotonic() + 60
    for _ in range(5):
        made = camera.made
        taken.append(next(frames))
        assert taken[-1].index >= made - 2, "the newest, or the one before if that was not handed over yet"
        while camera.made < taken[-1].index + 10:
            assert time.monotonic() < ends_s
            time.sleep(0.01)
    video.close()
    indices = [frame.index for frame in taken]
    assert all(after - before > 5 for before, after in pairwise(indices))
    assert video.dropped >= indices[-1] - len(indices)
    assert [frame.pixels[0, 0, 0] for frame in taken] == [index % 256 for index in indices]
    assert taken[-1].time_s == pytest.approx(taken[-1].taken_s - taken[0].taken_s, abs=0.02)


def test_it_connects_again_and_numbers_go_on(said: list[str]) -> None:
    wanted, indices = Semaphore(1), []
    first, second = Script(3, wanted=wanted), Script(3, wanted=wanted)
    refused = SourceError("refused")
    video = latest(connecting(first, refused, second, *[refused] * 9), said)
    for frame in islice(video.frames(), 6):
        indices.append(frame.index)
        wanted.release()
    assert indices == list(range(6))
    assert (video.reconnects, video.dropped) == (1, 0)
    video.close()
    assert first.closed
    assert said[:2] == ["the camera broke off; connecting again", "connected again"]


def test_the_first_connection_must_succeed(said: list[str]) -> None:
    with pytest.raises(SourceError, match="refused"):
        latest(connecting(SourceError("refused")), said)


def test_it_ends_when_told_to_even_while_nothing_comes(said: list[str]) -> None:
    stopping, waits = Event(), []

    def while_waiting() -> None:
        waits.append("nothing came")
        if len(waits) == 3:
            stopping.set()

    source = Script(1)
    refused = [SourceError("refused")] * 99
    video = LatestFrames(
        connecting(source, *refused), say=said.append, stopping=stopping, while_waiting=while_waiting
    )
    assert len(list(video.frames())) == 1
    assert len(waits) == 3
    video.close()
    assert said == ["the camera broke off; connecting again"]


def test_a_bug_in_the_thread_is_not_swallowed(said: list[str]) -> None:
    video = latest(connecting(Script(1, bug=ZeroDivisionError("a bug"))), said)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        list(video.frames())


def test_pauses_grow_to_a_bound_and_are_spread() -> None:
    pauses = list(islice(reconnect_pauses_s(), 40))
    for pause_s, limit_s in zip(pauses, (0.5, 1, 2, 4, 8, *[15] * 35), strict=True):
        assert limit_s / 2 <= pause_s <= limit_s
    assert len(set(pauses)) == 40
