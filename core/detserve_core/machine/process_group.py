"""A program that was started in its own session, and its end."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress

_KILL_S = 2.0
_POLL_S = 0.1


def stop_group(
    process: subprocess.Popen[bytes],
    patience_s: float,
    *,
    ask: signal.Signals = signal.SIGTERM,
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    """Ask the program to end, then kill what is left of its process group, and wait for that.

    Args:
        process: started with ``start_new_session=True``.
        patience_s: how long it may take to end by itself.
        ask: the signal that asks it.
        meanwhile: called again and again until it has ended.
    """
    process.send_signal(ask)
    deadline_s = time.monotonic() + patience_s
    while process.poll() is None and time.monotonic() < deadline_s:
        meanwhile()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_S)
    deadline_s = time.monotonic() + _KILL_S
    with suppress(ProcessLookupError):
        while time.monotonic() < deadline_s:
            os.killpg(process.pid, signal.SIGKILL)
            process.poll()
            time.sleep(_POLL_S)
    process.wait()
