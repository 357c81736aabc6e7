"""``detserve rest`` as a process of its own, in front of a server of the tests."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3

from detserve_core.machine.ports import choose_ports
from detserve_core.machine.readiness import answers
from detserve_perf.server.background import running


@dataclass(frozen=True)
class Rest:
    """Where it listens, and a way to ask it."""

    url: str
    port: int
    log: Path

    def ask(self, method: str, path: str, **how: Any) -> urllib3.BaseHTTPResponse:
        """One request, whose redirects and failures are not followed up."""
        return urllib3.request(method, f"{self.url}{path}", retries=False, redirect=False, timeout=30, **how)

    def detect(self, model: str, picture: bytes, query: str = "", **headers: str) -> urllib3.BaseHTTPResponse:
        """Send the picture as it is."""
        said = {"content-type": "image/jpeg"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        return self.ask("POST", f"/v1/models/{model}/detect{query}", body=picture, headers=said)


@contextmanager
def running_rest(url: str, *options: str, **environment: str) -> Iterator[Rest]:
    """Start it on a free port, yield it, stop it."""
    port = choose_ports({"REST": None})["REST"]
    command = [sys.executable, "-m", "detserve.command", "rest", "--url", url, "--port", str(port), *options]
    with tempfile.TemporaryDirectory(prefix="detserve-rest-") as folder:
        log = Path(folder) / "log"
        with running(
            command,
            name="detserve rest",
            log=log,
            is_ready=lambda: answers(port, "/v1/health/live"),
            environment={**os.environ, **environment},
        ):
            yield Rest(f"http://127.0.0.1:{port}", port, log)
