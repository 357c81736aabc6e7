"""A program that runs beside a measurement and is gone after it."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from detserve_core.machine.process_group import stop_group
from detserve_perf.errors import MeasurementError

_POLL_S = 0.1
_STOP_S = 15.0
_PR_SET_PDEATHSIG = 1


@contextmanager
def running(
    command: Sequence[str],
    *,
    name: str,
    log: Path,
    is_ready: Callable[[], bool],
    ready_timeout_s: float = 120,
    environment: Mapping[str, str] | None = None,
    attempts: int = 1,
) -> Iterator[int]:
    """Start ``command`` in its own session, wait until ``is_ready``, yield its pid, end the whole session.

    Raises :class:`MeasurementError` with the last line of ``log`` when it ends or is not ready in time, which
    is tried ``attempts`` times.
    """
    for left in range(attempts - 1, -1, -1):
        process = _start(command, log, environment)
        try:
            _wait(process, name, log, is_ready, ready_timeout_s)
        except MeasurementError:
            stop_group(process, _STOP_S)
            if not left:
                raise
        except BaseException:
            stop_group(process, _STOP_S)
            raise
        else:
            break
    try:
        yield process.pid
    finally:
        stop_group(process, _STOP_S)


def _start(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None
) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            env=None if environment is None else dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )


def _wait(
    process: subprocess.Popen[bytes], name: str, log: Path, is_ready: Callable[[], bool], timeout_s: float
) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not is_ready():
        if process.poll() is not None:
            raise MeasurementError(f"{name} ended before it was ready: {last_line(log)}")
        if time.monotonic() > deadline_s:
            raise MeasurementError(f"{name} was not ready after {timeout_s:g} s: {last_line(log)}")
        time.sleep(_POLL_S)


def last_line(log: Path) -> str:
    """The last line of a log that holds a word."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if any(map(str.isalnum, line))), "it says nothing")


def _end_with_parent() -> None:
    """In the child: be asked to end when the process that measures is killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
