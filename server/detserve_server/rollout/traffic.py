"""Directing a running gateway's traffic: a whole nginx.conf from changed settings, and a reload."""

from __future__ import annotations

import fcntl
import math
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from detserve_core.card import first_mistake
from detserve_core.machine.whole_files import write_whole
from detserve_server.errors import GatewayError, RolloutError
from detserve_server.gateway.configuration import render
from detserve_server.gateway.process import check_configuration, find_nginx
from detserve_server.gateway.settings import SETTINGS, GatewaySettings, Upstream
from detserve_server.gateway.shared_secret import read_secret

BEFORE = "gateway.before.json"
#: The settings that nginx is being told; it becomes SETTINGS once nginx has taken them.
NEXT = "gateway.next.json"
TRITON_FILE = "triton.env"
_CONFIGURATION = "nginx.conf"
_LOCK = ".gateway.lock"
_TAKE_UP_S = 10.0
_RELOAD_S = 60.0
_POLL_S = 0.05


@dataclass(frozen=True)
class Gateway:
    """A gateway by the ``folder`` that ``detserve gateway render`` wrote.

    ``reload_command`` is run after a change, e.g. ``docker compose kill --signal HUP gateway``; "" is for
    an nginx on this machine: its configuration is checked first, then the process of its pid file is told.
    """

    folder: Path
    reload_command: str = ""

    def settings(self) -> GatewaySettings:
        """What the gateway runs with; raises :class:`RolloutError` when the folder is not a gateway's."""
        return _read(self.folder / SETTINGS)

    def secret(self) -> str | None:
        """What the Tritons want from this gateway; None when they want nothing."""
        path = self.folder / TRITON_FILE
        return read_secret(path) if path.exists() else None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other roll-outs away; raises :class:`RolloutError` when one is running."""
        try:
            handle = (self.folder / _LOCK).open("a")
        except OSError as error:
            raise RolloutError(f"{self.folder} cannot be written ({error.strerror})") from None
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RolloutError(
                    f"another roll-out of {self.folder} is running; wait for its end, or stop it with "
                    f"Ctrl-C: it gives all traffic back"
                ) from None
            yield

    def direct(self, upstreams: Sequence[Upstream]) -> None:
        """Send the requests that come from now on to these servers; those in flight are finished.

        Raises :class:`RolloutError`. What nginx refuses when it is asked beforehand changes nothing; after
        any other failure it may run with either, and :meth:`give_back` settles it.
        """
        settings = self._settings_for(upstreams)
        if self.reload_command:
            self._reload_words()
        else:
            self._master()
            candidate = self.folder / f"{_CONFIGURATION}.next"
            try:
                write_whole(candidate, render(settings).encode(), mode=0o600)
                self._check(candidate.name)
            finally:
                candidate.unlink(missing_ok=True)
        self._take(settings)

    def give_back(self, upstreams: Sequence[Upstream]) -> None:
        """As :meth:`direct`, whatever a change before left; nginx.conf names these servers in any case."""
        self._take(self._settings_for(upstreams))

    def unfinished(self) -> bool:
        """Whether a change was broken off, so that nobody knows what nginx runs with."""
        return (self.folder / NEXT).exists()

    def wait_until_drained(self, given_up: Callable[[], bool] = lambda: False) -> bool:
        """Wait until no request goes by an earlier configuration; False where that is not seen.

        It is seen where nginx runs on this machine: its old workers have ended.
        """
        if self.reload_command:
            return False
        master, deadline_s = self._master(), time.monotonic() + self.drain_s() + _TAKE_UP_S
        while any(_is_ending(worker) for worker in _workers(master)):
            if given_up() or time.monotonic() > deadline_s:
                return False
            time.sleep(_POLL_S)
        return True

    def drain_s(self) -> float:
        """For how long an old worker may live: the ``worker_shutdown_timeout``, in seconds."""
        settings = self.settings()
        return settings.inference_timeout_s + settings.client_timeout_s

    def _master(self) -> int:
        return _read_pid(self.settings().run_dir / "nginx.pid")

    def remember(self) -> None:
        """Keep the present settings for :meth:`before`."""
        self._write(BEFORE, self.settings())

    def before(self) -> tuple[Upstream, ...] | None:
        """The servers that had the traffic before the last roll-out; None when there was none."""
        path = self.folder / BEFORE
        return _read(path).upstreams if path.exists() else None

    def _reload_words(self) -> list[str]:
        try:
            words = shlex.split(self.reload_command)
        except ValueError as error:
            raise RolloutError(
                f"--reload {self.reload_command!r}: {error}; quote it as a shell would"
            ) from None
        if not words:
            raise RolloutError("--reload is empty; give the command that reloads nginx")
        return words

    def _settings_for(self, upstreams: Sequence[Upstream]) -> GatewaySettings:
        return self.settings().model_copy(update={"upstreams": tuple(upstreams)})

    def _take(self, settings: GatewaySettings) -> None:
        """Whole, or it leaves ``NEXT``, by which the next roll-out knows."""
        self._write(NEXT, settings)
        path = self.folder / _CONFIGURATION
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
        write_whole(path, render(settings).encode(), mode=mode)
        self._reload()
        (self.folder / NEXT).replace(self.folder / SETTINGS)

    def _check(self, name: str) -> None:
        """Let nginx read a configuration of the folder without taking it."""
        try:
            check_configuration(find_nginx(), self.folder, name)
        except GatewayError as error:
            raise RolloutError(str(error)) from None

    def _write(self, name: str, settings: GatewaySettings) -> None:
        write_whole(self.folder / name, settings.model_dump_json(indent=2).encode() + b"\n")

    def _reload(self) -> None:
        if self.reload_command:
            _run(self._reload_words())
            return
        self._check(_CONFIGURATION)
        master = self._master()
        old = _workers(master)
        os.kill(master, signal.SIGHUP)
        _wait(lambda: _workers(master) - old, "nginx started no new workers; its error log says why")
        # nginx tells its old workers a moment later; only then do they take no new connections.
        _wait(
            lambda: all(_is_ending(worker) for worker in _workers(master) & old),
            "nginx did not end its old workers",
        )


def with_share(old: Sequence[Upstream], new: Sequence[Upstream], share: float) -> list[Upstream]:
    """Old and new servers together, the new ones with ``share`` (0 to 1) of the requests between them."""
    of_old = max(1, round(1000 * (1 - share) / len(old)))
    of_new = max(1, round(1000 * share / len(new)))
    divisor = math.gcd(of_old, of_new)
    return [
        *(one.model_copy(update={"weight": of_old // divisor}) for one in old),
        *(one.model_copy(update={"weight": of_new // divisor}) for one in new),
    ]


def _read(path: Path) -> GatewaySettings:
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise RolloutError(f"{path} is not a file; give the folder that detserve gateway render wrote")
    try:
        return GatewaySettings.model_validate_json(path.read_bytes())
    except OSError as error:
        raise RolloutError(
            f"{path} cannot be read ({error.strerror}); give the folder that detserve gateway render wrote"
        ) from None
    except ValidationError as error:
        raise RolloutError(first_mistake(error, str(path))) from None


def _run(command: list[str]) -> None:
    """Run in its own session, where a Ctrl-C of this terminal does not reach it."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_RELOAD_S, start_new_session=True
        )
    except OSError as error:
        raise RolloutError(f"{command[0]} cannot be run ({error.strerror})") from None
    except subprocess.TimeoutExpired:
        raise RolloutError(f"{shlex.join(command)} did not end within {_RELOAD_S:g} s") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise RolloutError(f"{shlex.join(command)} failed: {lines[-1] if lines else done.returncode}")


def _read_pid(path: Path) -> int:
    try:
        pid = int(path.read_text())
        if pid <= 1:
            raise ValueError(pid)  # a signal to it would go to many processes
        os.kill(pid, 0)
    except (OSError, ValueError, OverflowError):
        raise RolloutError(
            f"{path} names no running nginx; start the gateway, or say how it is reloaded with --reload"
        ) from None
    return pid


def _workers(master: int) -> set[int]:
    children = Path(f"/proc/{master}/task/{master}/children")
    return {int(pid) for pid in children.read_text().split()} if children.exists() else set()


def _is_ending(worker: int) -> bool:
    try:
        return b"shutting down" in Path(f"/proc/{worker}/cmdline").read_bytes()
    except OSError:
        return False


def _wait(condition: Callable[[], object], otherwise: str) -> None:
    deadline_s = time.monotonic() + _TAKE_UP_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise RolloutError(otherwise)
        time.sleep(_POLL_S)
