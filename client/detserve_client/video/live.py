"""The latest frame of a live source: a thread reads, reconnects, and drops what is late."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from threading import Condition, Event, Thread

from detserve_client.video.frames import Frame, VideoInput
from detserve_core.errors import SourceError

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 15.0
_LOOK_UP_S = 0.1


def reconnect_pauses_s() -> Iterator[float]:
    """The pause before each new connection: 50 to 100% of 0.5, 1, 2, ... seconds, 15 at most, without end."""
    limit_s = _FIRST_PAUSE_S
    while True:
        yield limit_s * random.uniform(0.5, 1.0)  # noqa: S311
        limit_s = min(2 * limit_s, _LONGEST_PAUSE_S)


class LatestFrames:
    """The frames of a live source, each at most once and never an old one.

    Args:
        connect: opens the source. Called at once, and again from a thread when the source dies.
        say: told in a sentence when the source dies and when it is back.
        stopping: set when no more frames are wanted; the frames end.
        while_waiting: called ten times a second while no frame comes.

    Attributes:
        fps: frames per second that the source promises.
        total_frames: None; a live source has no end.
        dropped: how many frames came and were not taken.
        reconnects: how often the source died and came back.

    Raises:
        SourceError: the source cannot be opened the first time.
    """

    def __init__(
        self,
        connect: Callable[[], VideoInput],
        *,
        say: Callable[[str], None],
        stopping: Event,
        while_waiting: Callable[[], None],
    ) -> None:
        self._connect, self._say, self._stopping, self._while_waiting = connect, say, stopping, while_waiting
        first = connect()
        self.fps = first.fps
        self.total_frames = None
        self.dropped = 0
        self.reconnects = 0
        self._received = 0
        self._started_s = 0.0
        self._lost = False
        self._pauses_s = reconnect_pauses_s()
        self._latest: Frame | None = None
        self._bug: BaseException | None = None
        self._changed = Condition()
        self._thread = Thread(target=self._read, args=(first,), name="detserve-live", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop reading."""
        self._stopping.set()
        self._thread.join(timeout=1.0)

    def frames(self) -> Iterator[Frame]:
        """The latest frame whenever one is asked for; waits where there is none. Ends when told to stop."""
        while not self._stopping.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._latest or self._bug, timeout=_LOOK_UP_S)
                if self._bug is not None:
                    raise self._bug
                frame, self._latest = self._latest, None
            if frame is not None:
                yield frame
            else:
                self._while_waiting()

    def _read(self, first: VideoInput) -> None:
        source: VideoInput | None = first
        try:
            while source is not None:
                with closing(source):
                    self._read_until_lost(source)
                source = self._connected_again()
        except BaseException as bug:
            with self._changed:
                self._bug = bug
                self._changed.notify()

    def _read_until_lost(self, source: VideoInput) -> None:
        try:
            for frame in source.frames():
                if self._stopping.is_set():
                    return
                self._put(frame)
        except SourceError as error:
            if not self._lost:
                self._say(f"{error}; connecting again")
            self._lost = True

    def _put(self, frame: Frame) -> None:
        if self._lost:
            self._lost = False
            self._pauses_s = reconnect_pauses_s()
            self.reconnects += 1
            self._say("connected again")
        with self._changed:
            if self._received == 0:
                self._started_s = frame.taken_s
            self.dropped += self._latest is not None
            self._latest = replace(frame, index=self._received, time_s=frame.taken_s - self._started_s)
            self._received += 1
            self._changed.notify()

    def _connected_again(self) -> VideoInput | None:
        while not self._stopping.wait(next(self._pauses_s)):
            try:
                return self._connect()
            except SourceError:
                continue
        return None
