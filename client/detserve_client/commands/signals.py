"""Ctrl-C as a wish to come to an end."""

from __future__ import annotations

import atexit
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Event
from types import FrameType

_SAME_WISH_S = 1.0


@contextmanager
def told_to_stop() -> Iterator[Event]:
    """Yield an event that SIGINT (Ctrl-C) or SIGTERM sets.

    A signal that comes a second or more after the first acts as it always does. One that comes sooner is
    the same wish, also after the block: ``timeout`` and some shells send each signal twice.
    """
    stopping = Event()
    first_s: float | None = None
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal first_s
        stopping.set()
        if first_s is None:
            first_s = time.monotonic()
            atexit.register(_ignore, before)  # Python ends with the handlers that kill
        elif time.monotonic() - first_s > _SAME_WISH_S:
            restore()
            signal.raise_signal(number)

    for number in before:
        signal.signal(number, stop)
    try:
        yield stopping
    finally:
        if not stopping.is_set():
            restore()


def _ignore(numbers: Iterable[int]) -> None:
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
