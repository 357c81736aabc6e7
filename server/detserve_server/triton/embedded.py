"""A real Triton server on this machine, for as long as a ``with`` block runs."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NoReturn

from detserve_core.errors import ServerStartError
from detserve_core.machine.ports import LOOPBACK, choose_ports
from detserve_core.machine.process_group import stop_group
from detserve_core.machine.processes import has_dead_child
from detserve_core.machine.readiness import answers
from detserve_server.errors import ServerStopped
from detserve_server.in_process.choice import Choice, choose
from detserve_server.triton import orphans
from detserve_server.triton.command_line import EXIT_TIMEOUT_S, server_arguments, server_environment
from detserve_server.triton.distribution import assembled_backends, find_distribution
from detserve_server.triton.idle_connections import end_connections
from detserve_server.triton.logs import ServerLog, cause_of_death, known_cause, nothing_in_flight
from detserve_server.triton.private_links import folder_of_links
from detserve_server.triton.repository import (
    ModelOutline,
    check_called,
    check_names,
    check_no_cache,
    read_repository,
    with_steps,
)
from detserve_server.triton.shared_memory import MIB, SHM_DIR, free_bytes, remove_regions, start_bytes

_POLL_S = 0.05
#: Triton's own exit timeout, and what it takes after that.
_STOP_S = EXIT_TIMEOUT_S + 5.0
_DYING_S = 5.0


@dataclass(frozen=True)
class RunningServer:
    """Where a running server listens. ``models`` are what it loaded, ``steps_run`` says in which process."""

    grpc_url: str
    http_url: str
    metrics_url: str
    pid: int
    models: tuple[str, ...]
    steps_run: str
    log_file: Path
    region_prefix: str
    _process: subprocess.Popen[bytes] = field(repr=False, compare=False)

    def wait(self) -> NoReturn:
        """Block while the server runs; raises :class:`ServerStopped` when it ends by itself."""
        while True:
            self.check_running(None)

    def check_running(self, timeout_s: float | None) -> None:
        """Raise :class:`ServerStopped` when the server has ended within ``timeout_s``, None: for ever."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
            raise ServerStopped(f"the server {_ending(self._process)}; its log is at {self.log_file}")


@contextmanager
def embedded_server(
    repository: Path,
    *,
    grpc_port: int | None = None,
    http_port: int | None = None,
    metrics_port: int | None = None,
    models: Sequence[str] | None = None,
    allow_shared_memory: bool = False,
    ready_timeout_s: float = 120,
    log_file: Path | None = None,
    gateway_secret: str | None = None,
    require_signature: Path | None = None,
) -> Iterator[RunningServer]:
    """Serve a model repository on 127.0.0.1 until the block ends.

    Ports that are not given are chosen. ``models`` loads only these, with the steps of their ensembles. With
    ``allow_shared_memory`` clients on this host may have the server read and write shared memory of its user.
    The server's log goes to ``log_file`` or to a temporary file, which is kept only when the server fails.
    With a ``gateway_secret`` only requests that carry it reach the models: those of the gateway.
    ``require_signature`` is a public key (PEM): Triton reads a private copy of what was signed with it.

    Pipelines run within the server's process where they can (:mod:`detserve_server.in_process`), for which a
    backend is compiled the first time.

    Raises :class:`ServerStartError`: no repository or model there, no room in ``/dev/shm``, a port in use, a
    model that does not load, no readiness in ``ready_timeout_s``. Raises
    :class:`~detserve_server.errors.SignatureError` when the repository is not what was signed.
    """
    ports = choose_ports({"gRPC": grpc_port, "HTTP": http_port, "metrics": metrics_port})
    found = find_distribution()
    region_prefix = f"detserve_{os.getpid()}_{secrets.token_hex(4)}_"
    with (
        _checked(Path(repository).resolve(), models, require_signature) as (repository, serving),
        _log(log_file) as log,
        assembled_backends(found, (where := _place(serving)).backend) as backends,
    ):
        links = folder_of_links(repository, backends)
        arguments = server_arguments(
            found.binary,
            links,
            backends=backends,
            grpc_port=ports["gRPC"],
            http_port=ports["HTTP"],
            metrics_port=ports["metrics"],
            region_prefix=region_prefix,
            # by name, as Triton does not know that a pipeline calls a model
            models=None if models is None else [model.name for model in serving],
            gateway_secret=gateway_secret,
            allow_shared_memory=allow_shared_memory,
        )
        environment = server_environment(found, os.environ)
        temporary = [backends, *([repository.parent] if require_signature else [])]
        ending = partial(_end_connections, http_port=ports["HTTP"], grpc_port=ports["gRPC"], log=log.path)
        with _process(arguments, environment, log.path, region_prefix, temporary, ending) as process:
            shown = replace(log, renamed=(str(links), str(repository)))
            _wait_until_ready(process, ports["HTTP"], ready_timeout_s, shown)
            yield RunningServer(
                grpc_url=f"grpc://{LOOPBACK}:{ports['gRPC']}",
                http_url=f"http://{LOOPBACK}:{ports['HTTP']}",
                metrics_url=f"http://{LOOPBACK}:{ports['metrics']}/metrics",
                pid=process.pid,
                models=tuple(model.name for model in serving),
                steps_run=str(where),
                log_file=log.path,
                region_prefix=region_prefix,
                _process=process,
            )


@contextmanager
def _checked(
    repository: Path, models: Sequence[str] | None, public_key: Path | None
) -> Iterator[tuple[Path, list[ModelOutline]]]:
    """The repository, or a private copy of what was signed in it, and the models that will be served."""
    if public_key is None:
        yield repository, _check_repository(repository, models)
        return
    from detserve_server.signing.keys import read_public_key
    from detserve_server.signing.repository import verified_copy

    with verified_copy(repository, read_public_key(public_key)) as copy:
        yield copy, _check_repository(copy, models)


def _check_repository(repository: Path, models: Sequence[str] | None) -> list[ModelOutline]:
    """The models that will be served; raises when one is not there, wrongly called, or answers from a cache."""
    serving = read_repository(repository)
    if models is not None:
        check_names(serving, list(models), repository)
        serving = with_steps(serving, list(models))
    check_called(serving, repository)
    check_no_cache(serving)
    return serving


def _place(serving: list[ModelOutline]) -> Choice:
    """Where the python models will run; raises when ``/dev/shm`` has no room for their own processes."""
    where = choose(serving)
    needed, free = start_bytes(serving), free_bytes()
    if not where.backend and free < needed:
        raise ServerStartError(
            f"{SHM_DIR} has {free / MIB:.1f} MiB free and these models need {needed / MIB:.0f} MiB to start; "
            f"enlarge it (docker run --shm-size) or serve fewer instances"
        )
    return where


@contextmanager
def _log(log_file: Path | None) -> Iterator[ServerLog]:
    """The log to write to; a temporary one is removed unless the server failed."""
    if log_file is not None:
        try:
            log_file.parent.mkdir(parents=True, exist_ok=True)
            log_file.touch()
        except OSError as error:
            raise ServerStartError(f"the log {log_file} cannot be written ({error.strerror})") from None
        yield ServerLog(log_file, log_file.stat().st_size)
        return
    handle, name = tempfile.mkstemp(prefix="detserve-triton-", suffix=".log")
    os.close(handle)
    failed = False
    try:
        yield ServerLog(Path(name), 0)
    except (ServerStartError, ServerStopped):
        failed = True
        raise
    finally:
        if not failed:
            Path(name).unlink(missing_ok=True)


@contextmanager
def _process(
    arguments: list[str],
    environment: dict[str, str],
    log: Path,
    region_prefix: str,
    temporary: Sequence[Path],
    ending: Callable[[int], None],
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the server in its own process group, and end the whole group; ``ending`` helps it to end."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            arguments,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    watcher = None
    try:
        watcher = orphans.watch(process.pid, region_prefix, *temporary)
        yield process
    finally:
        stop_group(process, _STOP_S, meanwhile=partial(ending, process.pid))
        remove_regions(region_prefix)
        if watcher is not None:
            watcher.kill()
            watcher.wait()


def _end_connections(pid: int, *, http_port: int, grpc_port: int, log: Path) -> None:
    """Keep no server that stops waiting for clients: it would end without the ``finalize`` of its models.

    A call of gRPC in flight would be broken off: its connections wait for Triton's word that there is none.
    """
    end_connections(pid, http_port)
    if nothing_in_flight(log):
        end_connections(pid, grpc_port)


def _wait_until_ready(
    process: subprocess.Popen[bytes], http_port: int, timeout_s: float, log: ServerLog
) -> None:
    deadline_s = time.monotonic() + timeout_s
    look_at_stubs_s = time.monotonic() + _DYING_S
    while not answers(http_port):
        # Triton waits for ever on some models that cannot load; the reason in the log is final all the same.
        if process.poll() is not None or known_cause(log.text()):
            raise _start_error(process, log)
        if time.monotonic() > look_at_stubs_s:
            # Triton waits for ever on a stub that ends before it says a word.
            if has_dead_child(process.pid):
                raise _start_error(process, log, "has lost the process of a Python model")
            look_at_stubs_s = time.monotonic() + 1
        if time.monotonic() > deadline_s:
            raise ServerStartError(
                f"the server was not ready after {timeout_s:g} s; its log is at {log.path}"
            )
        time.sleep(_POLL_S)
    if known_cause(log.text()):  # Triton goes on without its metrics when their port is taken
        raise _start_error(process, log)


def _start_error(
    process: subprocess.Popen[bytes], log: ServerLog, ending: str | None = None
) -> ServerStartError:
    if ending is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_DYING_S)
    cause = cause_of_death(log.text(), ending or _ending(process))
    return ServerStartError(f"{cause}; the whole log is at {log.path}")


def _ending(process: subprocess.Popen[bytes]) -> str:
    """How the server's process ended, in words."""
    status = process.poll()
    if status is None:
        return "hangs"
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"
