"""The caller's trace id reaches the access log, the server behind and every answer; nothing forged does."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import urllib3
from opentelemetry.sdk.trace import TracerProvider

from detserve_client import AsyncClient, InferenceError
from detserve_server.audit.record import record_of
from detserve_server.gateway.settings import Upstream
from tests.live.behind_gateway import nginx_gateway
from tests.live.gateway.conftest import YOLO, Site, read_all, wait_for

TRACER = TracerProvider().get_tracer("test")
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01"
FORGED = [
    "", "x", '","client":"victim","x":"', f"{GOOD},{GOOD}", f"{GOOD}-more", f"ff-{TRACE}-{SPAN}-01",
    f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE.upper()}-{SPAN}-01", GOOD[:-1],
    f"00-{TRACE}\x1b[2J-{SPAN}-01",
]  # fmt: skip


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_the_current_span_is_in_the_access_log(site: Site, protocol: str, sample: Path) -> None:
    with site.client(protocol) as client, TRACER.start_as_current_span("shop") as span:
        client.detect(sample)
        assert site.last()["trace_id"] == f"{span.get_span_context().trace_id:032x}"
        with pytest.raises(InferenceError):
            client.detect(b"no picture")
        assert site.last()["trace_id"] == f"{span.get_span_context().trace_id:032x}"


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_the_current_span_of_an_async_client_too(site: Site, protocol: str, sample: Path) -> None:
    async def detect() -> int:
        async with AsyncClient(site.url(protocol), YOLO, security=site.security()) as client:
            with TRACER.start_as_current_span("shop") as span:
                await client.detect(sample)
                return span.get_span_context().trace_id

    assert f"{asyncio.run(detect()):032x}" == site.last()["trace_id"]


def test_without_a_span_the_trace_id_is_that_of_the_request(site: Site, sample: Path) -> None:
    with site.client("grpc") as client:
        client.detect(sample)
    line = site.last()
    assert line["trace_id"] == line["request_id"]
    assert record_of(json.dumps(line).encode())["trace_id"] == line["request_id"]


@pytest.mark.parametrize(
    ("path", "key", "status"),
    [
        ("/v2", False, 401),
        ("/metrics", True, 403),
        ("/inference.GRPCInferenceService/ServerLive", False, 200),
        (f"/v2/models/{YOLO}/ready", True, 200),
    ],
)
def test_every_answer_over_http_names_the_trace(site: Site, path: str, key: bool, status: int) -> None:
    head, body = _ask(site, f"{'POST' if 'GRPC' in path else 'GET'} {path}", GOOD, key)
    assert head.startswith(f"HTTP/1.1 {status} ")
    assert f"X-Trace-Id: {TRACE}" in head
    assert status == 200 or json.loads(body)["trace_id"] == TRACE


@pytest.mark.parametrize("value", FORGED)
def test_what_is_no_traceparent_is_not_believed(site: Site, value: str) -> None:
    head, body = _ask(site, "GET /v2", value, key=False)
    line = site.last()
    assert line["trace_id"] == line["request_id"] == json.loads(body)["trace_id"]
    assert f"X-Trace-Id: {line['request_id']}" in head
    assert line["client"] == ""


@pytest.fixture
def received() -> Iterator[tuple[Upstream, list[str | None]]]:
    """A server in Triton's place, and the traceparent of each request that reached it."""
    found: list[str | None] = []

    class Keep(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.append(self.headers["traceparent"])
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Keep) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield Upstream(grpc="127.0.0.1:1", http=f"127.0.0.1:{server.server_port}"), found
        finally:
            server.shutdown()


def test_only_a_traceparent_is_passed_on(received: tuple[Upstream, list[str | None]], tmp_path: Path) -> None:
    upstream, found = received
    with nginx_gateway(tmp_path / "gateway", [upstream]) as gateway:
        url = gateway.url.replace("grpcs:", "https:") + "/v2"
        with urllib3.PoolManager(ca_certs=str(gateway.folder / "ca.crt")) as pool:
            for value in (GOOD, GOOD[:-1] + "0", "x", f"ff-{TRACE}-{SPAN}-01"):
                headers = {**gateway.security.headers(), "traceparent": value}
                assert pool.request("GET", url, headers=headers).status == 200
    assert found == [GOOD, GOOD[:-1] + "0", None, None]


def _ask(site: Site, request: str, traceparent: str, key: bool) -> tuple[str, str]:
    """Head and body of the answer."""
    lines_before = len(site.log()) if site.gateway.access_log.exists() else 0
    authorization = f"Authorization: Bearer {site.keys['alice']}\r\n" if key else ""
    text = f"{request} HTTP/1.1\r\nHost: g\r\n{authorization}traceparent: {traceparent}\r\n"
    text += "Connection: close\r\n\r\n"
    with site.connect() as connection:
        connection.sendall(text.encode("latin-1"))
        head, _, body = read_all(connection).decode("latin-1").partition("\r\n\r\n")
    wait_for(lambda: len(site.log()) > lines_before)
    return head, body
