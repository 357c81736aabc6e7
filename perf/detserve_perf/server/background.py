"""A program that runs beside a measurement and is gone after it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from detserve_perf.errors import MeasurementError

LOOPBACK = "127.0.0.1"
_POLL_S = 0.1
_STOP_S = 15.0
_PR_SET_PDEATHSIG = 1
# Below the range Linux takes for outgoing connections: a server binds its port seconds after it is chosen.
_PORTS = range(20_000, 32_000)


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
            _stop(process)
            if not left:
                raise
        except BaseException:
            _stop(process)
            raise
        else:
            break
    try:
        yield process.pid
    finally:
        _stop(process)


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


def free_ports(count: int) -> list[int]:
    """Different TCP ports of the loopback address on which nothing listens now."""
    chosen: list[int] = []
    for port in random.SystemRandom().sample(_PORTS, k=400):
        if len(chosen) < count and _is_free(port):
            chosen.append(port)
    if len(chosen) < count:
        raise MeasurementError(f"fewer than {count} ports of {LOOPBACK} are free")
    return chosen


def last_line(log: Path) -> str:
    """The last line of a log that holds a word."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if any(map(str.isalnum, line))), "it says nothing")


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _end_with_parent() -> None:
    """In the child: be asked to end when the process that measures is killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S)
    deadline_s = time.monotonic() + 2
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline_s:
            os.killpg(process.pid, signal.SIGKILL)
            process.poll()
            time.sleep(_POLL_S)
    process.wait()
