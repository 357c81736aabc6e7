"""Ctrl-C, SIGTERM and a closed terminal as a wish, which a roll-out looks at between its steps."""

from __future__ import annotations

import atexit
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

from detserve_server.errors import RolloutError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SAID = b"detserve: coming to an end; a change of the gateway is finished first, nothing interrupts it\n"


@dataclass
class Stop:
    """Whether an end is ``wanted``. A plain field: a handler that takes a lock could wait for itself."""

    wanted: bool = False

    def check(self) -> None:
        """Raise :class:`RolloutError` when an end is wanted."""
        if self.wanted:
            raise RolloutError("stopped by a signal")


@contextmanager
def stop_wishes() -> Iterator[Stop]:
    """Let signals set ``wanted`` and do no more, however often they come; one that is ignored stays so."""
    stop = Stop()

    def heed(_number: int, _frame: FrameType | None) -> None:
        stop.wanted = True
        with suppress(OSError):  # a terminal that was closed
            os.write(2, _SAID)

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    heeded = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in heeded:
        signal.signal(number, heed)
    try:
        yield stop
    finally:
        if stop.wanted:  # the sentence that says how it ended is still to be printed
            atexit.register(_ignore, heeded)  # Python ends with the handlers that kill
        else:
            for number in heeded:
                signal.signal(number, before[number])


def _ignore(numbers: list[signal.Signals]) -> None:
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
