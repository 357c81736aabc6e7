"""``detserve serve`` and ``detserve rest`` for as long as a measurement needs them."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from detserve_core.machine.ports import LOOPBACK, choose_ports
from detserve_core.machine.readiness import answers
from detserve_perf.server.background import running


@dataclass(frozen=True)
class ServedRepository:
    """Where it listens; ``pid`` is the parent of all its processes."""

    grpc_url: str
    http_url: str
    pid: int


@contextmanager
def served(repository: Path, model: str, *options: str) -> Iterator[ServedRepository]:
    """Serve ``model`` and the steps of its ensemble on free ports of 127.0.0.1.

    ``options`` are further options of ``detserve serve``. Raises
    :class:`~detserve_perf.errors.MeasurementError` with the server's own words when it does not start.
    """
    ports = choose_ports({"gRPC": None, "HTTP": None, "metrics": None})
    grpc_port, http_port, metrics_port = ports.values()
    command = [sys.executable, "-m", "detserve.command", "serve", "--repository", str(repository)]
    command += ["--model", model, "--grpc-port", str(grpc_port), "--http-port", str(http_port)]
    command += ["--metrics-port", str(metrics_port), *options]
    with (
        tempfile.TemporaryDirectory(prefix="detserve-perf-") as folder,
        running(
            command,
            name=f"detserve serve --repository {repository}",
            log=Path(folder) / "serve.log",
            is_ready=lambda: answers(http_port),
        ) as pid,
    ):
        yield ServedRepository(f"grpc://{LOOPBACK}:{grpc_port}", f"http://{LOOPBACK}:{http_port}", pid)


@dataclass(frozen=True)
class ServedRest:
    """Where it listens, and its process."""

    url: str
    pid: int


@contextmanager
def served_rest(server_url: str) -> Iterator[ServedRest]:
    """``detserve rest`` in front of a server, on a free port of 127.0.0.1.

    Raises :class:`~detserve_perf.errors.MeasurementError` with its own words when it does not start.
    """
    (port,) = choose_ports({"REST": None}).values()
    command = [sys.executable, "-m", "detserve.command", "rest", "--url", server_url, "--port", str(port)]
    with (
        tempfile.TemporaryDirectory(prefix="detserve-perf-") as folder,
        running(
            command,
            name=f"detserve rest --url {server_url}",
            log=Path(folder) / "rest.log",
            is_ready=lambda: answers(port, "/v1/health"),
        ) as pid,
    ):
        yield ServedRest(f"http://{LOOPBACK}:{port}", pid)
