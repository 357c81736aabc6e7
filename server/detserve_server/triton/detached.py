"""``detserve serve --detach``: one server of this user that goes on when the command has ended.

It holds a lock for as long as it lives, so that a record that a killed one left behind misleads nobody.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from detserve_core.errors import ServerStartError
from detserve_core.machine.cache import cache_folder, made_in_cache
from detserve_core.machine.sha256 import file_sha256
from detserve_core.machine.whole_files import blamed_on, write_whole
from detserve_core.repository.config_pbtxt import CONFIG
from detserve_core.repository.manifest import MANIFEST

RUN_DETACHED = "DETSERVE_RUN_DETACHED"  # set for the process that serves
_POLL_S = 0.1
_STOP_S = 100.0  # a gateway goes on with requests in flight for 70 s, Triton for 10 s


class Detached(BaseModel):
    """The server: its process, the folder and the arguments it was started with, and what runs where."""

    model_config = ConfigDict(frozen=True)

    pid: int
    folder: str
    arguments: list[str]
    rows: list[tuple[str, str]]
    repository: str
    builds: str


def start_detached(arguments: Sequence[str]) -> tuple[Detached, bool]:
    """Start ``detserve ARGUMENTS`` and wait until it serves; False where the same one was running already.

    Raises:
        ServerStartError: another detached server runs, or this one does not start.
        OutputError: the cache folder, which holds the server's log, cannot be written.
    """
    if running := running_detached():
        if (running.arguments, running.folder) == (list(arguments), str(Path.cwd())):
            if running.builds != builds_of(Path(running.repository)):
                raise ServerStartError(
                    f"a server runs already, and {running.repository} has changed since it was started; "
                    "stop it with detserve serve --stop and start it again"
                )
            return running, False
        raise ServerStartError(
            f"another detached server runs (detserve {' '.join(running.arguments)}, in {running.folder}); "
            "stop it with: detserve serve --stop"
        )
    made_in_cache(cache_folder())
    log = _file("log")
    with blamed_on(log):
        log.touch()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "detserve.command", *arguments],
            env={**os.environ, RUN_DETACHED: "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while process.poll() is None:
            if (running := running_detached()) and running.pid == process.pid:
                return running, True
            time.sleep(_POLL_S)
    except BaseException:
        process.terminate()
        raise
    said = log.read_text(errors="replace").strip().splitlines() or ["nothing"]
    raise ServerStartError(said[-1].removeprefix("detserve: "))


def stop_detached() -> Detached:
    """Stop the detached server and wait until it has ended.

    Raises:
        ServerStartError: none runs, or it does not end.
    """
    running = running_detached()
    if running is None:
        raise ServerStartError("no detached server runs; start one with: detserve serve --detach")
    os.kill(running.pid, signal.SIGTERM)
    deadline_s = time.monotonic() + _STOP_S
    while running_detached() is not None:
        if time.monotonic() > deadline_s:
            raise ServerStartError(
                f"the detached server did not end in {_STOP_S:g} s; end it with: kill -9 {running.pid}"
            )
        time.sleep(_POLL_S)
    return running


def running_detached() -> Detached | None:
    """The detached server that serves now, if any."""
    with contextlib.suppress(OSError), _file("lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return Detached.model_validate_json(_file("json").read_bytes())
    return None


def announce(
    arguments: Sequence[str], rows: Sequence[tuple[str, str]], repository: Path, builds: str
) -> None:
    """Let the command that waits know that this process serves, where it was started to be detached.

    ``builds`` is :func:`builds_of` the repository from before the server loaded it.
    The lock is held until the process ends, which is after its server has.
    """
    if not os.environ.get(RUN_DETACHED):
        return
    descriptor = os.open(_file("lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ServerStartError("another detached server was started at the same time") from None
    record = Detached(
        pid=os.getpid(),
        folder=str(Path.cwd()),
        arguments=list(arguments),
        rows=list(rows),
        repository=str(repository.resolve()),
        builds=builds,
    )
    write_whole(_file("json"), record.model_dump_json().encode(), mode=0o600)


def builds_of(repository: Path) -> str:
    """What tells one state of a repository from another: every configuration and manifest."""
    files = sorted([*repository.glob(f"*/{CONFIG}"), *repository.glob(f"*/{MANIFEST}")])
    found = [(path.relative_to(repository).as_posix(), file_sha256(path)) for path in files]
    return hashlib.sha256(repr(found).encode()).hexdigest()


def _file(ending: str) -> Path:
    return cache_folder() / f"detached.{ending}"
