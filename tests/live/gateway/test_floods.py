"""What is refused costs little: floods are paced by address, logged one in 256, and hold few places."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from detserve_server.audit.record import record_of
from detserve_server.audit.usage import Usage
from detserve_server.gateway.settings import Upstream
from tests.live.behind_gateway import NginxGateway, nginx_gateway

pytestmark = pytest.mark.slow

REQUEST = b"GET /v2 HTTP/1.1\r\nHost: g\r\n\r\n"


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[NginxGateway]:
    """nginx before a Triton that is not there: refusals do not reach it."""
    with nginx_gateway(tmp_path / "gateway", [Upstream(grpc="127.0.0.1:9", http="127.0.0.1:9")]) as running:
        yield running


def connected(gateway: NginxGateway, *alpn: str) -> ssl.SSLSocket:
    host, _, port = gateway.url.partition("://")[2].partition(":")
    context = ssl.create_default_context(cafile=gateway.folder / "ca.crt")
    context.set_alpn_protocols(alpn or ["http/1.1"])
    return context.wrap_socket(socket.create_connection((host, int(port)), timeout=5), server_hostname=host)


def test_a_client_without_a_key_is_answered_a_hundred_times_a_second(gateway: NginxGateway) -> None:
    answers, started_s = 0, time.monotonic()
    with connected(gateway) as connection:
        while time.monotonic() < started_s + 3:
            connection.sendall(20 * REQUEST)
            expected = answers + 20
            while answers < expected:
                answers += connection.recv(65536).count(b"HTTP/1.1 401 ")
    seconds = time.monotonic() - started_s
    assert 100 <= answers <= 100 * seconds + 120
    lines = [json.loads(line) for line in gateway.access_log.read_text().splitlines()]
    assert {line["one_in"] for line in lines} == {1}, "each that was answered is logged"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame of HTTP/2 (RFC 9113, 4.1)."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
NO_WINDOW = frame(4, 0, 0, struct.pack(">HI", 4, 0))  # no answer's body may be sent
GET_V2 = b"\x82\x87\x04\x03/v2\x01\x07gateway"  # HPACK: GET, https, a path, an authority


def test_refusals_that_nobody_takes_hold_a_hundred_places(gateway: NginxGateway) -> None:
    """Twenty connections of 32 streams whose answers may not be sent, all of one address."""
    connections = [connected(gateway, "h2") for _ in range(20)]
    try:
        before_kib = resident_kib(gateway)
        for connection in connections:
            streams = b"".join(frame(1, 5, 2 * number + 1, GET_V2) for number in range(32))
            connection.sendall(PREFACE + NO_WINDOW + streams)
        time.sleep(1)
        held_kib = resident_kib(gateway) - before_kib
    finally:
        for connection in connections:
            connection.close()
    assert held_kib < 8 * 1024, "640 of 14 kB are 9 MiB"
    time.sleep(0.5)
    records = [record_of(line) for line in gateway.access_log.read_bytes().splitlines()]
    assert all(record["kind"] == "request" for record in records)
    assert {record["outcome"] for record in records} <= {"denied", "rejected", "cancelled"}, (
        "none of Triton's"
    )


def test_a_flood_beyond_the_limit_is_logged_one_in_256(gateway: NginxGateway) -> None:
    """Streams without a key on forty connections: 500 wait for their turn, all others are closed at once."""
    with ExitStack() as stack:
        connections = [stack.enter_context(connected(gateway, "h2")) for _ in range(40)]
        for connection in connections:
            connection.sendall(PREFACE + frame(4, 0, 0))
        for first in range(0, 640, 32):
            for connection in connections:
                streams = range(first, first + 32)
                connection.sendall(b"".join(frame(1, 5, 2 * number + 1, GET_V2) for number in streams))
            time.sleep(0.02)
        time.sleep(0.5)
        lines = gateway.access_log.read_bytes().splitlines()
    records = [record_of(line) for line in lines]
    closed = [record for record in records if record["status"] == 444]
    counted = Usage()
    for record in closed:
        counted.update(record)
    requests = sum(use.requests for use in counted.rows())
    print(f"{len(records)} lines, {len(closed)} of them of closed streams and counted as {requests}")
    assert closed
    assert {record["one_in"] for record in closed} == {256}
    assert {record["outcome"] for record in closed} == {"rejected"}
    assert 2000 < requests < 25_600
    assert len(records) < 1000


def resident_kib(gateway: NginxGateway) -> int:
    """Of nginx's workers."""
    master = (gateway.folder / "nginx.pid").read_text().strip()
    workers = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    texts = [Path(f"/proc/{worker}/status").read_text() for worker in workers]
    return sum(int(text.partition("VmRSS:")[2].split()[0]) for text in texts)
