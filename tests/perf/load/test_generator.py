"""The load generator against real HTTP and gRPC servers in this process."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detserve_core.endpoint import Endpoint
from detserve_perf.load.generator import (
    HttpRequest,
    Run,
    closed_loop,
    grpc_sender,
    http_sender,
    open_loop,
    poisson_arrivals_s,
)

_WORK_S = 0.02


class _Echo(BaseHTTPRequestHandler):
    """Answers after 20 ms, and not before as many requests as are ``awaited`` have been there at a time."""

    protocol_version = "HTTP/1.1"
    lock = threading.Lock()
    in_flight = most = awaited = 0
    all_here = threading.Event()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._count(1)
        assert self.all_here.wait(60)
        time.sleep(_WORK_S)
        self._count(-1)
        self.send_response(200 if body != b"bad" else 400)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _count(self, change: int) -> None:
        with self.lock:
            _Echo.in_flight += change
            _Echo.most = max(_Echo.most, _Echo.in_flight)
            if _Echo.in_flight >= _Echo.awaited:
                self.all_here.set()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def echo() -> Iterator[str]:
    _Echo.in_flight = _Echo.most = _Echo.awaited = 0
    _Echo.all_here.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def _http(url: str, bodies: list[bytes], load) -> Run:
    async def go() -> Run:
        async with http_sender(Endpoint.parse(url), "/x", [HttpRequest(body, {}) for body in bodies]) as send:
            return await load(send)

    return asyncio.run(go())


def test_a_closed_loop_keeps_its_concurrency(echo: str) -> None:
    _Echo.awaited = 3
    run = _http(echo, [b"a", b"b"], lambda send: closed_loop(send, concurrency=3, requests=12))
    assert len(run.samples) == 12
    assert run.errors == []
    assert _Echo.most == 3
    assert run.latencies_ms.min() >= 1e3 * _WORK_S
    assert run.pictures_per_s == pytest.approx(12 / run.took_s)
    assert run.cpu_s > 0


def test_a_closed_loop_ends_in_time(echo: str) -> None:
    run = _http(echo, [b"a"], lambda send: closed_loop(send, concurrency=2, duration_s=0.2))
    assert run.took_s >= 0.2
    assert len(run.samples) >= 2


def test_failed_requests_are_counted_apart(echo: str) -> None:
    run = _http(echo, [b"good", b"bad"], lambda send: closed_loop(send, concurrency=1, requests=4))
    assert run.errors == ["status 400: bad"] * 2
    assert len(run.latencies_ms) == 2


def test_an_open_loop_sends_on_time_whatever_is_under_way(echo: str) -> None:
    _Echo.awaited = 5
    run = _http(echo, [b"a"], lambda send: open_loop(send, [0.0] * 5 + [0.1]))
    assert _Echo.most >= 5
    assert sorted(sample.due_s for sample in run.samples) == pytest.approx([0.0] * 5 + [0.1], abs=1e-6)


def test_nobody_there_is_a_failed_request() -> None:
    run = _http("http://127.0.0.1:9", [b"a"], lambda send: closed_loop(send, concurrency=1, requests=2))
    assert len(run.errors) == 2


def test_grpc_messages_go_as_they_are() -> None:
    import grpc

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        if request == b"bad":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no picture")
        return request[::-1]

    handler = grpc.method_handlers_generic_handler(
        "inference.GRPCInferenceService", {"ModelInfer": grpc.unary_unary_rpc_method_handler(answer)}
    )
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers((handler,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()

        async def go() -> tuple[bytes, Run]:
            async with grpc_sender(Endpoint.parse(f"grpc://127.0.0.1:{port}"), [b"abc", b"bad"]) as send:
                return await send(0), await closed_loop(send, concurrency=2, requests=4)

        first, run = asyncio.run(go())
        server.stop(None).wait()
    assert first == b"cba"
    assert run.errors == ["INVALID_ARGUMENT: no picture"] * 2


@given(st.floats(1, 500), st.floats(0.1, 20), st.integers(0, 1000))
def test_arrivals_are_ascending_inside_the_duration(rate: float, duration: float, seed: int) -> None:
    arrivals = poisson_arrivals_s(rate, duration, seed)
    assert arrivals == sorted(arrivals)
    assert all(0 <= time_s < duration for time_s in arrivals)


def test_arrivals_come_at_the_rate_and_at_random() -> None:
    gaps = np.diff(poisson_arrivals_s(100, 1000, seed=3))
    assert gaps.mean() == pytest.approx(0.01, rel=0.02)
    assert gaps.std() == pytest.approx(0.01, rel=0.02)  # exponential: mean and deviation agree


@pytest.mark.parametrize("name", ["http_proxy", "https_proxy", "grpc_proxy", "all_proxy"])
def test_no_proxy_stands_between_the_generator_and_this_machine(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    test_grpc_messages_go_as_they_are()
