"""``detserve rest`` beside a server of this machine, for as long as a ``with`` block runs."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from detserve_core.contract import GATEWAY_SECRET
from detserve_core.errors import ServerStartError
from detserve_core.machine.ports import LOOPBACK, choose_ports
from detserve_core.machine.process_group import stop_group
from detserve_core.machine.readiness import answers
from detserve_server.errors import ServerStopped
from detserve_server.triton import orphans

_POLL_S = 0.05
_START_S = 30.0
_STOP_S = 15.0  # it goes on with the requests in flight for 10 s


@dataclass(frozen=True)
class RunningRest:
    """Where it listens. ``log`` has the traceback of a bug, and goes when it ends."""

    port: int
    pid: int
    log: Path
    _process: subprocess.Popen[bytes] = field(repr=False, compare=False)

    @property
    def address(self) -> str:
        """``HOST:PORT``."""
        return f"{LOOPBACK}:{self.port}"

    def check_running(self) -> None:
        """Raise :class:`ServerStopped` when it has ended by itself."""
        if self._process.poll() is not None:
            raise ServerStopped(
                f"detserve rest ended with status {self._process.returncode}: {_last_words(self.log)}"
            )


@contextmanager
def rest_beside(
    server_url: str, port: int | None, *, secret: str | None = None
) -> Iterator[RunningRest | None]:
    """Nothing without a port, else :func:`running_rest`."""
    if port is None:
        yield None
        return
    with running_rest(server_url, port=port, secret=secret) as running:
        yield running


@contextmanager
def running_rest(server_url: str, *, port: int, secret: str | None = None) -> Iterator[RunningRest]:
    """Run ``detserve rest`` on a port of 127.0.0.1 in front of ``server_url``.

    With ``secret``, it answers only the gateway that shows it.

    Raises:
        PortTaken: the port is in use.
        ServerStartError: it does not start, as without the extra ``rest``.
    """
    choose_ports({"plain HTTP": port})
    command = [sys.executable, "-m", "detserve.command", "rest", "--url", server_url, "--port", str(port)]
    with tempfile.NamedTemporaryFile(prefix="detserve-rest-", suffix=".log") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, GATEWAY_SECRET: secret or "none"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        watcher = None
        try:
            # The name of a region that nobody has keeps the watcher off shared memory.
            watcher = orphans.watch(process.pid, f"detserve_rest_{secrets.token_hex(8)}")
            running = RunningRest(port, process.pid, Path(output.name), process)
            _wait_until_it_answers(running)
            yield running
        finally:
            stop_group(process, _STOP_S)
            if watcher is not None:
                watcher.kill()
                watcher.wait()


def _wait_until_it_answers(rest: RunningRest) -> None:
    deadline_s = time.monotonic() + _START_S
    while not answers(rest.port, "/v1/health/live"):
        try:
            rest.check_running()
        except ServerStopped:
            raise ServerStartError(_last_words(rest.log)) from None
        if time.monotonic() > deadline_s:
            raise ServerStartError(f"detserve rest does not answer on port {rest.port} in {_START_S:g} s")
        time.sleep(_POLL_S)


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("detserve: ") if lines else "it says nothing"
