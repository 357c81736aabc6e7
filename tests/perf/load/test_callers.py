"""Callers that wait, against real HTTP and gRPC servers in this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detserve_perf.load.callers import callers, grpc_call, http_call
from detserve_perf.load.generator import HttpRequest, RequestFailed, is_refusal
from detserve_perf.load.grpc_connection import GrpcFailed, read_headers

LARGE = bytes(range(256)) * 8192  # 2 MiB: many frames, more than any first window


class _Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    connections = 0

    def setup(self) -> None:
        super().setup()
        _Echo.connections += 1

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(400 if body == b"bad" else 200)
        if body == b"last":
            self.send_header("Connection", "close")
            self.close_connection = True
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def http_url() -> Iterator[str]:
    _Echo.connections = 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def _answer(request: bytes, context: grpc.ServicerContext) -> bytes:
    if request == b"bad":
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "50 % of a picture, größer")
    if request == b"full":
        context.abort(grpc.StatusCode.UNAVAILABLE, "exceeds maximum queue size of 32 pictures")
    return request[::-1]


@contextmanager
def _grpc_server(port: int = 0) -> Iterator[int]:
    handler = grpc.method_handlers_generic_handler(
        "inference.GRPCInferenceService", {"ModelInfer": grpc.unary_unary_rpc_method_handler(_answer)}
    )
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers((handler,))
        chosen = server.add_insecure_port(f"127.0.0.1:{port}")
        server.start()
        yield chosen
        server.stop(None).wait()


@pytest.fixture
def grpc_url() -> Iterator[str]:
    with _grpc_server() as port:
        yield f"grpc://127.0.0.1:{port}"


def test_http_bodies_come_back_over_one_connection(http_url: str) -> None:
    with http_call(http_url, "/x", [HttpRequest(body, {}) for body in (b"a", LARGE)]) as call:
        assert [call(0), call(1), call(2)] == [b"a", LARGE, b"a"]
    assert _Echo.connections == 1


def test_http_connects_again_where_the_server_closes(http_url: str) -> None:
    with http_call(http_url, "/x", [HttpRequest(b"last", {})]) as call:
        assert [call(0), call(1)] == [b"last", b"last"]
    assert _Echo.connections == 2


def test_http_failures_say_why(http_url: str) -> None:
    with http_call(http_url, "/x", [HttpRequest(b"bad", {})]) as call:
        with pytest.raises(RequestFailed, match="^status 400: bad$"):
            call(0)
    with http_call("http://127.0.0.1:9", "/x", [HttpRequest(b"a", {})]) as call:
        with pytest.raises(RequestFailed, match="refused"):
            call(0)


def test_grpc_messages_come_back_whatever_their_size(grpc_url: str) -> None:
    with grpc_call(grpc_url, [b"abc", b"", LARGE]) as call:
        assert [call(number) for number in range(6)] == [b"cba", b"", LARGE[::-1]] * 2


def test_grpc_windows_are_given_back(grpc_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a window of 3 MiB for all answers, the second one of 2 MiB waits for ever without that."""
    monkeypatch.setattr("detserve_perf.load.grpc_connection._MOST_BYTES", 3 * 2**20)
    monkeypatch.setattr("detserve_perf.load.grpc_connection._RETURN_WINDOW_BYTES", 2**20)
    monkeypatch.setattr("detserve_perf.load.callers.TIMEOUT_S", 10)
    with grpc_call(grpc_url, [LARGE]) as call:
        assert [call(number) for number in range(4)] == [LARGE[::-1]] * 4


def test_grpc_failures_say_why_and_the_connection_goes_on(grpc_url: str) -> None:
    with grpc_call(grpc_url, [b"bad", b"abc", b"full"]) as call:
        with pytest.raises(RequestFailed, match="^INVALID_ARGUMENT: 50 % of a picture, größer$"):
            call(0)
        assert call(1) == b"cba"
        with pytest.raises(RequestFailed) as full:
            call(2)
    assert is_refusal(str(full.value))


def test_grpc_connects_again_where_the_server_was_started_again() -> None:
    with _grpc_server() as port:
        pass
    with grpc_call(f"grpc://127.0.0.1:{port}", [b"abc"]) as call:
        with pytest.raises(RequestFailed, match="^UNAVAILABLE: .*refused"):
            call(0)
        with _grpc_server(port):
            assert call(0) == b"cba"
        with pytest.raises(RequestFailed, match="^UNAVAILABLE: "):
            call(0)
        with _grpc_server(port):
            assert call(0) == b"cba"


def test_callers_share_the_requests(http_url: str) -> None:
    connect = partial(http_call, http_url, "/x", [HttpRequest(body, {}) for body in (b"a", b"bad")])
    with callers(connect, 3) as send:
        first, second = send(30), send(4)
    assert (len(first.samples), len(second.samples)) == (30, 4)
    assert first.errors == ["status 400: bad"] * 15
    assert len(second.latencies_ms) == 2
    assert _Echo.connections == 3
    assert first.cpu_s > 0
    assert all(0 <= sample.due_s <= first.took_s for sample in first.samples)


def _text(text: bytes) -> bytes:
    if len(text) < 127:
        return bytes([len(text)]) + text
    rest, encoded = len(text) - 127, [127]
    while rest >= 128:
        encoded.append(rest % 128 + 128)
        rest //= 128
    return bytes([*encoded, rest]) + text


_NAMES = st.binary(min_size=1, max_size=20)
_VALUES = st.binary(max_size=20) | st.binary(min_size=120, max_size=600)


@given(st.dictionaries(_NAMES, _VALUES), st.sampled_from([0x00, 0x10, 0x40]))
def test_headers_are_read_beside_those_of_the_table(headers: dict[bytes, bytes], kind: int) -> None:
    """RFC 7541: a table size, an indexed header, and one whose name alone is in the table."""
    block = b"\x3f\xe1\x1f" + b"\x88" + bytes([kind | 8]) + _text(b"304")
    for name, value in headers.items():
        block += bytes([kind]) + _text(name) + _text(value)
    assert read_headers(block) == headers


def test_a_header_in_huffmans_code_is_refused() -> None:
    with pytest.raises(GrpcFailed, match="Huffman"):
        read_headers(b"\x00\x84abcd\x01a")
