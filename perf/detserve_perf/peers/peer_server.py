"""Start a peer and say how it is asked."""

from __future__ import annotations

import os
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import detserve_core
import detserve_perf
from detserve_core.machine.ports import LOOPBACK, choose_ports
from detserve_core.machine.readiness import answers
from detserve_core.repository.manifest import read_manifest
from detserve_perf.load.generator import HttpRequest
from detserve_perf.load.wire_requests import (
    Found,
    base64_requests,
    posted_requests,
    read_json,
    read_triton_http,
    triton_http_requests,
)
from detserve_perf.server.background import running

#: Our server's allocator settings (triton/command_line.py); the peers get them too, in their favour.
_ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "2147483648",
    "MALLOC_TOP_PAD_": "67108864",
}
_READY_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class RunningPeer:
    """Where a peer listens, what to send there and how to read its answers."""

    name: str
    url: str
    path: str
    requests: Sequence[HttpRequest]
    read: Callable[[bytes], Found]
    pid: int


@contextmanager
def running_peer(
    name: str, python: Path, repository: Path, model: str, pictures: Sequence[bytes], cores: int
) -> Iterator[RunningPeer]:
    """Serve ``model`` of ``repository`` with peer ``name`` on 127.0.0.1 until the block ends."""
    port, *more = choose_ports({"peer": None, "second": None, "third": None}).values()
    paths = {"bentoml": "/readyz", "pytriton": f"/v2/models/{model}/ready", "mosec": "/"}
    health = paths.get(name, "/health")
    with tempfile.TemporaryDirectory(prefix=f"detserve-{name}-") as folder:
        environment = {
            **_clean(os.environ),
            **_ALLOCATOR,
            "HOME": folder,  # the peers keep state and count their users there
            "BENTOML_DO_NOT_TRACK": "True",
            # PyTriton's stub must find this Python's library, not the system's.
            "LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR") or ""),
            "PYTHONPATH": _packages(),
            "DETSERVE_PEER_REPOSITORY": str(repository.resolve()),
            "DETSERVE_PEER_MODEL": model,
            "DETSERVE_PEER_ROWS": str(read_manifest(repository, model).card.thresholds.max_detections),
            "DETSERVE_PEER_CORES": str(cores),
            "DETSERVE_PEER_PORT": str(port),
            "DETSERVE_PEER_MORE_PORTS": ",".join(map(str, more)),
        }
        with running(
            _command(name, python, port),
            name=name,
            log=Path(folder) / "log",
            is_ready=lambda: answers(port, health),
            ready_timeout_s=_READY_TIMEOUT_S,
            environment=environment,
            attempts=3,  # PyTriton gives its own parts one second, too little on a busy machine
        ) as pid:
            yield _peer(name, model, port, pictures, pid)


def _command(name: str, python: Path, port: int) -> list[str]:
    if name == "bentoml":
        serve = ["-m", "bentoml", "serve", "detserve_perf.peers.bentoml_app:Detector"]
        return [str(python), *serve, "--host", LOOPBACK, "--port", str(port)]
    app = [str(python), "-m", f"detserve_perf.peers.{name}_app"]
    if name == "mosec":
        # A request may wait until the workers are up, which its server's own answers do not tell.
        listening = ("--address", LOOPBACK, "--port", str(port))
        return [*app, *listening, "--timeout", "120000", "--log-level", "warning"]
    return app


def _peer(name: str, model: str, port: int, pictures: Sequence[bytes], pid: int) -> RunningPeer:
    url = f"http://{LOOPBACK}:{port}"
    if name == "pytriton":
        path = f"/v2/models/{model}/infer"
        return RunningPeer(name, url, path, triton_http_requests(pictures), read_triton_http, pid)
    requests = base64_requests(pictures) if name == "litserve" else posted_requests(pictures)
    return RunningPeer(name, url, "/detect", requests, read_json, pid)


def _packages() -> str:
    """The folders of the packages that a peer shares with us: the card and the in-process reference."""
    folders = dict.fromkeys(str(Path(str(p.__file__)).parents[1]) for p in (detserve_core, detserve_perf))
    return os.pathsep.join(folders)


def _clean(environment: os._Environ[str]) -> dict[str, str]:
    """Without what belongs to this python's own environment."""
    own = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH"}
    return {name: value for name, value in environment.items() if name not in own}
