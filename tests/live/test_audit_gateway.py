"""nginx writes, its log is rotated, the collector killed: each request is in the audit log exactly once."""

from __future__ import annotations

import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from detserve_server.audit.record import record_of
from detserve_server.audit.usage import Usage
from detserve_server.audit.verify import verify
from detserve_server.gateway.keys.key import new_key
from detserve_server.gateway.keys.store import KeyFile, change_keys
from detserve_server.gateway.settings import Upstream
from detserve_server.signing.keys import create_key, read_public_key
from tests.live.behind_gateway import OPEN, NginxGateway, nginx_gateway
from tests.server.audit.audit_logs import records

#: Request lines with what a log could stumble over; nginx answers some of them 400.
PATHS = [
    "/v2/models/codes_yolo/infer",
    "/v2",
    '/v2/models/a","client":"victim","x":"/infer',
    "/v2/models/%22%7d%0a%7b%22client%22%3a%22victim%22/infer",
    "/v2/models/\x1b[2J\x1b]0;owned\x07/infer",
    "/v2/models/\\u000a\\/infer",
    "/v2/models/\xff\xfe\x80/infer",
    "/v2/models/" + "x" * 3000,
    "/../../etc/passwd",
]
REQUESTS, CLIENTS = 6000, 4


@pytest.mark.slow
def test_every_request_is_in_the_audit_log_exactly_once(tmp_path: Path) -> None:
    key = tmp_path / "audit.pem"
    public = read_public_key(create_key(key))
    nowhere = Upstream(grpc="127.0.0.1:1", http="127.0.0.1:1")
    with nginx_gateway(tmp_path / "gateway", [nowhere]) as gateway:
        log, directory = gateway.access_log, tmp_path / "audit"
        command = [sys.executable, "-m", "detserve.command", "audit", "collect", "--from", str(log)]
        command += ["--to", str(directory), "--key", str(key)]
        senders = [
            threading.Thread(
                target=_send, args=(gateway.url, gateway.folder / "ca.crt", gateway.security.api_key)
            )
            for _ in range(CLIENTS)
        ]
        for sender in senders:
            sender.start()
        chance, rotations, kills = random.Random(9), 0, 0  # noqa: S311
        while any(sender.is_alive() for sender in senders):
            collector = subprocess.Popen(command)
            time.sleep(chance.uniform(1.0, 2.0))
            rotations += 1
            log.rename(log.with_name(f"access.jsonl.{rotations}"))
            os.kill(int((gateway.folder / "nginx.pid").read_text()), signal.SIGUSR1)
            time.sleep(chance.uniform(0, 0.5))
            kills += 1
            collector.send_signal(chance.choice([signal.SIGKILL, signal.SIGTERM]))
            collector.wait()
        for sender in senders:
            sender.join()
        subprocess.run([*command, "--once"], check=True)
    print(f"{REQUESTS} requests, {rotations} rotations, {kills} collectors ended")
    assert rotations >= 2
    usage = Usage()
    verify(directory, public, on_record=usage.update)
    found = [record for record in records(directory) if record["kind"] != "file"]
    kinds = [record["kind"] for record in found]
    assert len(found) == REQUESTS, {kind: kinds.count(kind) for kind in set(kinds)}
    ids = [record["request_id"] for record in found if record["kind"] == "request"]
    assert len(set(ids)) == len(ids)
    assert set(kinds) == {"request"}  # the gateway writes no bytes that are no UTF-8
    assert "POST /v2/models/" in {record["method"] for record in found}  # cut before what cannot be printed
    print({kind: kinds.count(kind) for kind in set(kinds)})
    assert {row.client for row in usage.rows()} <= {"", "shop"}
    text = b"".join(path.read_bytes() for path in directory.glob("audit-*.jsonl"))
    assert text.replace(b"\n", b"").decode("ascii").isprintable()
    assert (gateway.security.api_key or "?").encode() not in text


def _send(url: str, authority: Path, key: str) -> None:
    """Request lines as no HTTP library would let a caller write them."""
    host, _, port = url.partition("://")[2].partition(":")
    context = ssl.create_default_context(cafile=str(authority))
    for number in range(REQUESTS // CLIENTS):
        method = "GET" if number % 3 else "POST"
        lines = [f"{method} {PATHS[number % len(PATHS)]} HTTP/1.1", "host: gateway", "connection: close"]
        lines += [f"authorization: Bearer {key}"] if number % 2 else []
        with socket.create_connection((host, int(port)), timeout=30) as plain:
            with context.wrap_socket(plain, server_hostname=host) as connection:
                connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
                while connection.recv(65536):
                    pass


def test_the_line_names_the_key_and_never_its_secret(tmp_path: Path) -> None:
    nowhere = Upstream(grpc="127.0.0.1:1", http="127.0.0.1:1")
    with nginx_gateway(tmp_path / "gateway", [nowhere]) as gateway:
        keys = [gateway.security.api_key or "?"]
        second, kept = new_key("shop", limits=OPEN)
        change_keys(gateway.folder / "keys.json", lambda file: KeyFile(keys=(*file.keys, kept)))
        os.kill(int((gateway.folder / "nginx.pid").read_text()), signal.SIGHUP)
        keys.append(second)
        ids, secrets = [key[4:16] for key in keys], [key[17:] for key in keys]
        _until_let_in(gateway, second)
        expected: list[tuple[bytes, tuple[str, str, str]]] = [
            (f"Bearer {key}".encode(), ("shop", key_id, "")) for key, key_id in zip(keys, ids, strict=True)
        ]
        expected += [
            (b"bearer dsk_%b_%b" % (ids[0].encode(), secrets[1].encode()), ("", "", ids[0])),
            (b"Bearer dsk_" + b"f" * 12 + b"_short", ("", "", "f" * 12)),
            (b'Bearer dsk_0123456789ab_","client":"victim","x":"', ("", "", "0123456789ab")),
            (b"Bearer dsk_0123456789ab_\x1b[2J\xff\\u000a", ("", "", "0123456789ab")),
            (b"Bearer " + secrets[0].encode(), ("", "", "")),
            (b"Bearer dsk_" + secrets[0].encode(), ("", "", "")),
            (b"Bearer dsk_0123456789AB_x", ("", "", "")),
            (b'Bearer dsk_0123456","b":_x', ("", "", "")),
            (b"Basic dsk_0123456789ab_x", ("", "", "")),
            (b"x Bearer dsk_0123456789ab_x", ("", "", "")),
            (b"", ("", "", "")),
        ]
        for target in (b"GET /v2", b"POST /inference.GRPCInferenceService/ServerLive", b"GET /elsewhere"):
            before = len(gateway.access_log.read_bytes().splitlines())
            for value, _ in expected:
                _ask(gateway, b"%b HTTP/1.1\r\nauthorization: %b" % (target, value))
            deadline_s = time.monotonic() + 5
            while len(gateway.access_log.read_bytes().splitlines()) < before + len(expected):
                assert time.monotonic() < deadline_s
                time.sleep(0.05)
            lines = gateway.access_log.read_bytes().splitlines()[before:]
            found = [record_of(line) for line in lines]
            assert [(one["client"], one["key"], one["claimed_key"]) for one in found] == [
                names for _, names in expected
            ]
        text = gateway.access_log.read_text()
    assert not [secret for secret in secrets if secret in text or secret[:12] in text]


def _until_let_in(gateway: NginxGateway, key: str) -> None:
    deadline_s = time.monotonic() + 10
    while b" 401 " in _ask(gateway, b"GET /v2 HTTP/1.1\r\nauthorization: Bearer " + key.encode()):
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def _ask(gateway: NginxGateway, request: bytes) -> bytes:
    host, _, port = gateway.url.partition("://")[2].partition(":")
    context = ssl.create_default_context(cafile=str(gateway.folder / "ca.crt"))
    with socket.create_connection((host, int(port)), timeout=30) as plain:
        with context.wrap_socket(plain, server_hostname=host) as connection:
            connection.sendall(request + b"\r\nhost: gateway\r\nconnection: close\r\n\r\n")
            return b"".join(iter(lambda: connection.recv(65536), b""))
