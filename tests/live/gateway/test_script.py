"""deploy/gateway/serve.sh around a real nginx: refused changes, a killed worker, a dead Triton."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import urllib3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from detserve_core.machine.ports import choose_ports, is_free
from detserve_server.gateway import GatewaySettings, RateLimits, Upstream, render
from detserve_server.gateway.certificates.authority import (
    Certified,
    new_authority,
    new_server,
    write_certified,
)
from detserve_server.gateway.certificates.expiry import expiries_of_lists, expiry_of
from detserve_server.gateway.keys.key import new_key, utc_now
from detserve_server.gateway.keys.store import KeyFile, change_keys
from tests.live.gateway.conftest import CHECKOUT, wait_for

UNLIMITED = RateLimits(rate_per_s=100_000, concurrency=4)


@dataclass
class Script:
    """serve.sh, and the folders it was given."""

    etc: Path
    port: int
    process: subprocess.Popen[bytes]
    log: Path
    keys: dict[str, str]
    ids: dict[str, str]

    def status(self, client: str = "alice", path: str = "/v2") -> int:
        headers = {"Authorization": f"Bearer {self.keys[client]}"}
        # A worker that ends may close a connection on which no request has come yet; a client connects again.
        again = urllib3.Retry(3, redirect=False, status=False, respect_retry_after_header=False)
        with urllib3.PoolManager(cert_reqs="CERT_NONE", retries=again, timeout=10) as pool:
            return int(pool.request("GET", f"https://127.0.0.1:{self.port}{path}", headers=headers).status)

    def revoke(self, client: str) -> None:
        key_id = self.ids[client]
        change_keys(
            self.etc / "keys/keys.json",
            lambda file: file.replaced(file.find(key_id).model_copy(update={"revoked": utc_now()})),
        )

    def said(self) -> str:
        return self.log.read_text()

    def metric(self, name: str) -> float:
        text = (self.log.parent / "gateway.prom").read_text()
        return float(next(line.split()[1] for line in text.splitlines() if line.startswith(f"{name} ")))

    def workers(self) -> list[int]:
        master = int((self.log.parent / "nginx.pid").read_text())
        children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        return [int(pid) for pid in children if b"shutting" not in Path(f"/proc/{pid}/cmdline").read_bytes()]


class _Triton(BaseHTTPRequestHandler):
    """What a Triton's HTTP server answers to health and metadata, ``delay_s`` later."""

    delay_s = 0.0
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        time.sleep(0 if "health" in self.path else self.delay_s)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def answering(delay_s: float = 0.0, host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """A server of Triton's HTTP endpoints; its port."""
    handler = type("Triton", (_Triton,), {"delay_s": delay_s})
    with ThreadingHTTPServer((host, port), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Script]]:
    """Starts serve.sh in front of HTTP ports, its folders in one of the test's own."""
    with ExitStack() as stack:
        yield lambda *ports, **options: stack.enter_context(_running(tmp_path, ports, **options))


@contextmanager
def _running(
    folder: Path,
    ports: tuple[int, ...],
    *,
    concurrency: int = 4,
    before: str = ":",
    host: str = "127.0.0.1",
    rest: str | None = None,
) -> Iterator[Script]:
    etc = folder / "etc"
    for name in ("gateway", "tls", "keys"):
        (etc / name).mkdir(parents=True)
    folder.chmod(0o755)
    keys, records = {}, []
    for client in ("alice", "bob"):
        keys[client], record = new_key(
            client, limits=UNLIMITED.model_copy(update={"concurrency": concurrency})
        )
        records.append(record)
    change_keys(etc / "keys/keys.json", lambda _: KeyFile(keys=tuple(records)))
    write_certified(etc / "tls/server.crt", new_server(new_authority("a"), ["127.0.0.1"]))
    port = choose_ports({"gateway": None})["gateway"]
    settings = GatewaySettings(
        listen=(f"127.0.0.1:{port}",),
        upstreams=tuple(Upstream(grpc=f"{host}:{one}", http=f"{host}:{one}") for one in ports),
        rest=() if rest is None else (rest,),
        certificate=etc / "tls/server.crt",
        certificate_key=etc / "tls/server.key",
        keys=etc / "keys/keys.conf",
        access_log=str(folder / "access.jsonl"),
        run_dir=folder,
        workers=1,
    )
    (etc / "gateway/nginx.conf").write_text(render(settings))
    log = folder / "said.log"
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(folder), os.environ["PATH"], "/usr/sbin"]),
        "GATEWAY_DIR": str(etc),
        "RUN_DIR": str(folder / "run"),
        "ACCESS_LOG": str(folder / "access.jsonl"),
        "WATCH_S": "1",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["sh", "-c", f'{before}; exec sh "$0"', CHECKOUT / "deploy/gateway/serve.sh"],
            env=environment,
            stderr=output,
        )
    try:
        pid = folder / "nginx.pid"
        wait_for(lambda: not is_free(port) and pid.exists() and pid.read_text().strip())
        ids = {record.client: record.id for record in records}
        yield Script(etc, port, process, log, keys, ids)
    finally:
        process.terminate()
        assert process.wait(20) == 0


def test_when_the_certificate_and_the_first_revocation_list_end(start) -> None:
    with answering() as triton:
        script = start(triton)
        ends = expiry_of(script.etc / "tls/server.crt", utc_now()).expires.timestamp()
        wait_for(lambda: (script.log.parent / "gateway.prom").exists())
        assert script.metric("detserve_gateway_certificate_expires_timestamp_seconds") == ends
        assert "revocations_expire" not in (script.log.parent / "gateway.prom").read_text()
        lists = [_revocation_list(new_authority(name, days=days)) for name, days in (("a", 9), ("b", 5))]
        (script.etc / "tls/clients.crl").write_bytes(b"".join(lists))
        first = min(one.expires for one in expiries_of_lists(script.etc / "tls/clients.crl", utc_now()))
        metric = "detserve_gateway_revocations_expire_timestamp_seconds"
        wait_for(lambda: metric in (script.log.parent / "gateway.prom").read_text())
        assert script.metric(metric) == first.timestamp()


def _revocation_list(authority: Certified) -> bytes:
    """An empty one, as good as its authority."""
    certificate = authority.certificate
    builder = x509.CertificateRevocationListBuilder().issuer_name(certificate.subject).last_update(utc_now())
    builder = builder.next_update(certificate.not_valid_after_utc)
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_a_certificate_that_nginx_refuses_holds_up_no_revocation(start) -> None:
    with answering() as triton:
        script = start(triton)
        assert script.status("bob") == 200
        good = (script.etc / "tls/server.crt").read_bytes()
        (script.etc / "tls/server.crt").write_text("no certificate")
        wait_for(lambda: "the change of tls is refused" in script.said())
        wait_for(lambda: script.metric("detserve_gateway_change_refused") == 1)
        script.revoke("bob")
        wait_for(lambda: script.status("bob") == 401)
        assert script.status("alice") == 200
        (script.etc / "tls/server.crt").write_bytes(good)
        wait_for(lambda: "what was refused is in force now" in script.said())
        wait_for(lambda: script.metric("detserve_gateway_change_refused") == 0)
        said = script.said()
        assert said.count("is refused, see above") <= 2, "once for each change"


def test_keys_that_nginx_refuses_hold_up_no_certificate(start) -> None:
    with answering() as triton:
        script = start(triton)
        (script.etc / "keys/keys.conf").write_text("nonsense")
        wait_for(lambda: "the change of keys is refused" in script.said())
        before = subprocess.run(_shown(script), capture_output=True, check=True).stdout
        write_certified(script.etc / "tls/server.crt", new_server(new_authority("b"), ["127.0.0.1"]))
        wait_for(lambda: subprocess.run(_shown(script), capture_output=True).stdout != before)
        assert script.status("alice") == 200, "the keys of before are in force"


def test_plain_http_without_an_address_stops_nobody_else(start, tmp_path: Path) -> None:
    """And is served within seconds of having one."""
    with answering() as triton, answering() as rest:
        found = tmp_path / "address"
        known = f'[ "$2" != rest ] || exec cat {found}'
        (tmp_path / "getent").write_text(f'#!/bin/sh\n{known}\nexec /usr/bin/getent "$@"\n')
        (tmp_path / "getent").chmod(0o755)
        script = start(triton, rest=f"rest:{rest}")
        assert script.status() == 200
        assert script.status(path="/v1/models") == 503
        wait_for(lambda: "names without an address: rest" in script.said())
        found.write_text("127.0.0.1 STREAM rest\n")
        wait_for(lambda: script.status(path="/v1/models") == 200)
        assert script.status() == 200


def _shown(script: Script) -> list[str]:
    """A command that prints the certificate that the gateway shows."""
    program = "import ssl, sys; print(ssl.get_server_certificate(('127.0.0.1', int(sys.argv[1]))))"
    return ["python3", "-c", program, str(script.port)]


def test_a_link_is_followed(start, tmp_path: Path) -> None:
    with answering() as triton:
        script = start(triton)
        elsewhere = tmp_path / "elsewhere"
        shutil.move(script.etc / "keys", elsewhere)
        (script.etc / "keys").symlink_to(elsewhere)
        script.revoke("bob")
        wait_for(lambda: script.status("bob") == 401)


def test_the_counts_of_a_killed_worker_do_not_stay(start) -> None:
    """A worker that is killed takes the requests of its clients along, and leaves them counted."""
    with answering(delay_s=3) as triton:
        script = start(triton, concurrency=2)
        ended = threading.Event()
        threads = [threading.Thread(target=_asking, args=(script, ended)) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            wait_for(lambda: script.status() == 429)
            for worker in script.workers():
                os.kill(worker, signal.SIGKILL)
        finally:
            ended.set()
        for thread in threads:
            thread.join()
        wait_for(lambda: "1 workers of nginx were killed" in script.said())
        wait_for(lambda: script.status() == 200)
        wait_for(lambda: script.metric("detserve_gateway_workers_lost_total") == 1)


def test_a_flood_of_alerts_is_cut_and_a_killed_worker_still_seen(start, tmp_path: Path) -> None:
    alerts = tmp_path / "alerts.log"
    with answering() as triton:
        script = start(triton)
        with alerts.open("a") as file:
            file.writelines("[alert] 64 worker_connections are not enough\n" for _ in range(30_000))
        wait_for(lambda: alerts.stat().st_size == 0)
        for worker in script.workers():
            os.kill(worker, signal.SIGKILL)
        wait_for(lambda: "1 workers of nginx were killed" in script.said())
        wait_for(lambda: script.status() == 200)


def _asking(script: Script, ended: threading.Event) -> None:
    while not ended.is_set():
        with suppress(urllib3.exceptions.HTTPError):
            script.status()


@contextmanager
def silent() -> Iterator[int]:
    """A port whose connections are never taken, as of a machine that is gone: its queue is full."""
    with socket.socket() as listener, ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@contextmanager
def hanging() -> Iterator[int]:
    """A port whose connections are taken by the kernel and answered by nobody, as of a stopped process."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(500)
        yield listener.getsockname()[1]


@pytest.mark.parametrize("dead", [silent, hanging])
def test_a_triton_that_does_not_answer_gets_no_requests(start, dead) -> None:
    with answering() as one, answering() as other, dead() as gone:
        script = start(one, gone, other)
        wait_for(script.workers)
        first = set(script.workers())
        wait_for(lambda: f"no answer from: 127.0.0.1:{gone}" in script.said())
        wait_for(lambda: not first & set(script.workers()))
        assert {script.status() for _ in range(40)} == {200}
        log = (script.log.parent / "access.jsonl").read_bytes().splitlines()[-40:]
        assert max(json.loads(line)["latency_s"] for line in log) < 2, "what nginx waits for a connection"


def test_a_name_with_several_addresses(start, tmp_path: Path) -> None:
    """Each is its own server; one that is dead gets nothing, one that is gone is no longer there."""
    names = tmp_path / "addresses"
    names.write_text("127.0.0.1\n127.0.0.2\n127.0.0.3\n")
    resolver = tmp_path / "getent"
    resolver.write_text(f"#!/bin/sh\nsed 's/$/ STREAM triton/' {names}\n")
    resolver.chmod(0o755)
    with answering() as port, answering(host="127.0.0.2", port=port):
        script = start(port, host="triton")
        assert {script.status() for _ in range(20)} == {200}
        wait_for(lambda: f"no answer from: 127.0.0.3:{port}" in script.said())
        names.write_text("127.0.0.2\n")
        served = script.etc.parent / "run/now/gateway/nginx.conf"
        wait_for(lambda: "127.0.0.1:" not in served.read_text().partition("server {")[0])
        assert served.read_text().count(f"server 127.0.0.2:{port} weight=1 max_fails=0;") == 2
        assert {script.status() for _ in range(20)} == {200}


def test_a_resolver_that_fails_holds_up_no_revocation(start, tmp_path: Path) -> None:
    """The name's last addresses stay, and it is said; an unknown name in a new nginx.conf is refused."""
    names = tmp_path / "addresses"
    names.write_text("127.0.0.1\n")
    resolver = tmp_path / "getent"
    resolver.write_text(f"#!/bin/sh\n[ \"$2\" = triton ] && sed 's/$/ STREAM triton/' {names}\n")
    resolver.chmod(0o755)
    with answering() as port:
        script = start(port, host="triton")
        assert script.status("bob") == 200
        names.write_text("")
        wait_for(lambda: "names without an address: triton" in script.said())
        script.revoke("bob")
        wait_for(lambda: script.status("bob") == 401)
        configuration = script.etc / "gateway/nginx.conf"
        configuration.write_text(configuration.read_text().replace("server triton:", "server nowhere:"))
        wait_for(lambda: "the change of gateway is refused" in script.said())
        assert script.status("alice") == 200


def test_a_folder_that_vanishes_is_said(start) -> None:
    with answering() as triton:
        script = start(triton)
        (script.etc / "keys").rename(script.etc.parent / "keys_elsewhere")
        wait_for(lambda: "the change of keys is refused" in script.said())
        assert script.status("alice") == 200
        (script.etc.parent / "keys_elsewhere").rename(script.etc / "keys")
        wait_for(lambda: "what was refused is in force now" in script.said())


def test_when_none_answers_none_is_taken_out(start) -> None:
    """One that does not answer a second time is: here that time is over when they are asked a third time."""
    with socket.socket() as one, socket.socket() as other, ExitStack() as stack:
        for listener in (one, other):
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            listener.settimeout(60)
        script = start(one.getsockname()[1], other.getsockname()[1])
        for _ in range(3):
            for listener in (one, other):
                stack.enter_context(listener.accept()[0])
        assert "no answer from" not in script.said()


def test_idle_connections_lock_nobody_out(start) -> None:
    """More of them than nginx may have open files: each new one takes the place of the oldest."""
    with answering() as triton, ExitStack() as stack:
        script = start(triton, before="ulimit -n 1024")
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        for _ in range(1200):
            raw = socket.create_connection(("127.0.0.1", script.port), timeout=5)
            stack.enter_context(context.wrap_socket(raw))
        assert {script.status() for _ in range(20)} == {200}
