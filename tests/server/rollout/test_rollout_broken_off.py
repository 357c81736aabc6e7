"""A roll-out that is killed or interrupted anywhere, before a real nginx: what is left, and the way back."""

from __future__ import annotations

import http.client
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from detserve_server.errors import RolloutError
from detserve_server.gateway.settings import Upstream
from detserve_server.rollout.rollout import roll_back, roll_out
from detserve_server.rollout.stop import Stop
from detserve_server.rollout.traffic import BEFORE, Gateway
from tests.live.behind_gateway import NginxGateway, nginx_gateway
from tests.needs import needs_nginx

pytestmark = needs_nginx

OLD, NEW = b"old", b"new"


@contextmanager
def _answering(word: bytes) -> Iterator[str]:
    """Stands behind the gateway and answers every request with one word; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(word)))
            self.end_headers()
            self.wfile.write(word)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[str, str]]:
    """The addresses of the old and the new one."""
    with _answering(OLD) as old, _answering(NEW) as new:
        yield old, new


@pytest.fixture
def gateway(tmp_path: Path, servers: tuple[str, str]) -> Iterator[NginxGateway]:
    old, _ = servers
    with nginx_gateway(tmp_path / "gateway", [Upstream(grpc=old, http=old)]) as running:
        (running.folder / "access.jsonl").touch()
        yield running


def _start(gateway: NginxGateway, servers: tuple[str, str], hold: str = "", kill_before: int = 0):
    command = [
        sys.executable,
        "-m",
        "tests.server.rollout.rolling_out",
        str(gateway.folder),
        servers[1],
        hold,
    ]
    return subprocess.Popen(
        [*command, str(kill_before)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _answers(gateway: NginxGateway) -> set[bytes]:
    """What new connections to the running nginx are answered."""
    host, port = gateway.url.partition("://")[2].split(":")
    trusted = ssl.create_default_context(cafile=str(gateway.security.ca))
    seen: Counter[bytes] = Counter()
    for _ in range(8):
        connection = http.client.HTTPSConnection(host, int(port), context=trusted, timeout=10)
        bearer = {"authorization": f"Bearer {gateway.security.api_key}"}
        connection.request("GET", "/v2/health/ready", headers=bearer)
        seen[connection.getresponse().read()] += 1
        connection.close()
    return set(seen)


def _said(gateway: NginxGateway, servers: Sequence[str]) -> list[set[bytes]]:
    """Who has traffic by gateway.json, by nginx.conf and by the running nginx."""
    behind, text = Gateway(gateway.folder), (gateway.folder / "nginx.conf").read_text()
    of_settings = {one.http for one in behind.settings().upstreams}
    named = dict(zip(servers, (OLD, NEW), strict=True))
    return [
        {named[address] for address in of_settings},
        {word for address, word in named.items() if f"server {address} " in text},
        _answers(gateway),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("hold", ["", "too different"])
def test_killed_between_any_two_steps(gateway: NginxGateway, servers: tuple[str, str], hold: str) -> None:
    disagreed = 0
    for kill_before in range(1, 60):
        process = _start(gateway, servers, hold, kill_before)
        process.communicate(timeout=60)
        if process.returncode != -signal.SIGKILL:
            break
        said = _said(gateway, servers)
        disagreed += said != [{OLD}] * 3
        if said != [{OLD}] * 3 or Gateway(gateway.folder).unfinished():
            _refused(gateway, servers[1])
            roll_back(Gateway(gateway.folder))
            assert _said(gateway, servers) == [{OLD}] * 3, kill_before
        (gateway.folder / BEFORE).unlink(missing_ok=True)
    print(f"killed {kill_before - 1} times, {disagreed} times the traffic was not where it had been")
    assert kill_before > 12
    assert disagreed > 4
    assert _said(gateway, servers) == [{OLD} if hold else {NEW}] * 3


def _refused(gateway: NginxGateway, new: str) -> None:
    with pytest.raises(RolloutError, match="go back first with --roll-back"):
        roll_out(
            Gateway(gateway.folder),
            [Upstream(grpc=new, http=new)],
            gate=lambda: "this is not asked",
            share=0.5,
            watch_s=0,
            max_failed=0,
            access_log=gateway.access_log,
            on_step=print,
            stop=Stop(),
        )


def test_a_storm_of_signals_does_not_keep_the_traffic_from_going_back(
    gateway: NginxGateway, servers: tuple[str, str]
) -> None:
    process = _start(gateway, servers, "watch")
    _until_shared(gateway)
    mix = [signal.SIGINT, signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
    sent = 0
    while process.poll() is None:
        process.send_signal(mix[sent % len(mix)])
        sent += 1
        time.sleep(0.01)
    output, errors = process.communicate()
    assert process.returncode == 1
    assert errors.splitlines()[-1] == "detserve: rolled back: stopped by a signal"
    assert "nothing interrupts it" in errors
    assert output.splitlines()[-1] == "all traffic goes back to the old server"
    assert sent > 3
    assert _said(gateway, servers) == [{OLD}] * 3


def test_a_give_back_that_nginx_refuses_names_the_command(
    gateway: NginxGateway, servers: tuple[str, str]
) -> None:
    process = _start(gateway, servers, "watch")
    _until_shared(gateway)
    certificate = gateway.folder / "server.crt"
    kept = certificate.rename(certificate.with_suffix(".kept"))
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert "rolled back" not in errors
    assert "the old server did not get its traffic back" in errors
    assert errors.rstrip().endswith(f"then run: detserve rollout --gateway {gateway.folder} --roll-back")
    assert "Traceback" not in errors
    with pytest.raises(RolloutError, match="fix that, then run: detserve rollout"):
        roll_back(Gateway(gateway.folder))
    kept.rename(certificate)
    roll_back(Gateway(gateway.folder))
    assert _said(gateway, servers) == [{OLD}] * 3


def test_two_at_a_time(gateway: NginxGateway, servers: tuple[str, str]) -> None:
    process = _start(gateway, servers, "watch")
    _until_shared(gateway)
    with pytest.raises(RolloutError, match="another roll-out of .* is running"):
        roll_back(Gateway(gateway.folder))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert _said(gateway, servers) == [{OLD}] * 3


def _until_shared(gateway: NginxGateway) -> None:
    deadline_s = time.monotonic() + 60
    while len(Gateway(gateway.folder).settings().upstreams) < 2:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
