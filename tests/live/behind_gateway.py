"""Several embedded servers behind a real nginx, and a load that counts what it was answered."""

from __future__ import annotations

import re
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from detserve_client import Client
from detserve_core.machine.ports import choose_ports
from detserve_core.security import Security
from detserve_server.audit.record import is_inference, record_of
from detserve_server.gateway.certificates.authority import new_authority, new_server, write_certified
from detserve_server.gateway.configuration import render
from detserve_server.gateway.keys.key import new_key
from detserve_server.gateway.keys.store import KeyFile, change_keys
from detserve_server.gateway.process import find_nginx
from detserve_server.gateway.settings import SETTINGS, GatewaySettings, RateLimits, Upstream
from detserve_server.gateway.shared_secret import write_secret
from detserve_server.triton.embedded import RunningServer

OPEN = RateLimits(rate_per_s=100_000, concurrency=1000)


@dataclass(frozen=True)
class NginxGateway:
    """nginx with one key, and what a client needs for it; ``folder`` is one of detserve gateway render."""

    folder: Path
    url: str
    security: Security
    access_log: Path

    def inferences(self) -> list[dict[str, object]]:
        """The access log's inference requests so far."""
        records = [record_of(line) for line in self.access_log.read_bytes().splitlines()]
        assert {record["kind"] for record in records} <= {"request"}, "a line that the audit cannot read"
        return [record for record in records if is_inference(record)]


@contextmanager
def nginx_gateway(
    folder: Path, upstreams: Sequence[Upstream], secret: str | None = None
) -> Iterator[NginxGateway]:
    """Run nginx in the foreground, as a container would, from a rendered folder."""
    folder.mkdir()
    folder.chmod(0o755)
    authority = new_authority("test")
    write_certified(folder / "ca.crt", authority)
    write_certified(folder / "server.crt", new_server(authority, ["127.0.0.1"]))
    key, kept = new_key("shop", limits=OPEN)
    change_keys(folder / "keys.json", lambda file: KeyFile(keys=(*file.keys, kept)))
    port = choose_ports({"gateway": None})["gateway"]
    settings = GatewaySettings(
        listen=(f"127.0.0.1:{port}",),
        upstreams=tuple(upstreams),
        certificate=folder / "server.crt",
        certificate_key=folder / "server.key",
        keys=folder / "keys.conf",
        secret=folder / "secret.conf" if secret else None,
        access_log=str(folder / "access.jsonl"),
        error_log=folder / "error.log",
        run_dir=folder,
        workers=2,
    )
    if secret:
        write_secret(folder / "secret.conf", folder / "triton.env", secret)
    (folder / SETTINGS).write_text(settings.model_dump_json())
    (folder / "nginx.conf").write_text(render(settings))
    where = ["-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    process = subprocess.Popen([find_nginx(), *where, "-g", "daemon off;"])
    try:
        deadline_s = time.monotonic() + 10
        while not (folder / "nginx.pid").exists():
            assert process.poll() is None, (folder / "error.log").read_text()
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        yield NginxGateway(
            folder,
            f"grpcs://127.0.0.1:{port}",
            Security(api_key=key, ca=folder / "ca.crt"),
            folder / "access.jsonl",
        )
    finally:
        process.terminate()
        process.wait(10)


def upstream(server: RunningServer) -> Upstream:
    """Where a gateway finds an embedded server."""
    return Upstream(grpc=server.grpc_url.partition("://")[2], http=server.http_url.partition("://")[2])


def served(server: RunningServer, model: str) -> int:
    """Requests the server has answered with success since it started."""
    return served_at(server.metrics_url, model)


def served_at(metrics_url: str, model: str) -> int:
    """As :func:`served`, of a server that somebody else has started."""
    with urllib.request.urlopen(metrics_url) as answer:  # noqa: S310
        text = answer.read().decode()
    found = re.search(
        rf'^nv_inference_request_success{{model="{model}",version="1"}} (\S+)', text, re.MULTILINE
    )
    return int(float(found[1])) if found else 0


@dataclass
class Load:
    """Closed-loop clients, one request each in flight at a time."""

    answered: int = 0
    errors: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wait_for(self, more: int, seconds: float = 120) -> None:
        """Wait until ``more`` further requests are answered."""
        target, deadline_s = self.answered + more, time.monotonic() + seconds
        while self.answered < target:
            assert time.monotonic() < deadline_s, (
                f"{self.answered} of {target} answered, errors {self.errors[:3]}"
            )
            time.sleep(0.05)

    def add(self, started_s: float, error: Exception | None, boxes: int, expected: int) -> None:
        """Take one outcome; a wrong answer is an error as well."""
        with self._lock:
            self.slowest_s = max(self.slowest_s, time.monotonic() - started_s)
            if error is not None:
                self.errors.append(repr(error))
            elif boxes != expected:
                self.errors.append(f"{boxes} boxes, expected {expected}")
            else:
                self.answered += 1


@contextmanager
def load(
    gateway: NginxGateway, model: str, picture: Path, boxes: int, *, clients: int = 6, pause_s: float = 0
) -> Iterator[Load]:
    """Send one picture again and again until the block ends; what is in flight then is finished."""
    result, going = Load(), threading.Event()
    going.set()
    encoded = picture.read_bytes()

    def run() -> None:
        with Client(gateway.url, model, security=gateway.security) as client:
            while going.is_set():
                started_s = time.monotonic()
                try:
                    result.add(started_s, None, len(client.detect(encoded)), boxes)
                except Exception as error:
                    result.add(started_s, error, 0, boxes)
                time.sleep(pause_s)

    threads = [threading.Thread(target=run) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield result
    finally:
        going.clear()
        for thread in threads:
            thread.join()
