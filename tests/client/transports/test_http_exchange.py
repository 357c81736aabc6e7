"""HTTP answers in every form a server or a proxy gives them, in pieces of any size."""

from __future__ import annotations

import gc
import weakref
from itertools import pairwise

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detserve_client.transports.http_exchange import AnswerReader, name_for_tls, request_bytes
from detserve_client.transports.http_messages import headers_to
from detserve_core.endpoint import Endpoint

OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = OK + b"Content-Length: 3\r\nX-Name: Value\r\n\r\nabc"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
CONTINUED = b"HTTP/1.1 100 Continue\r\nX-Name: Interim\r\n\r\n" + LENGTH


def in_pieces(message: bytes, ends: list[int]) -> AnswerReader:
    reader = AnswerReader()
    places = sorted({0, len(message), *(end % len(message) for end in ends)})
    for start, end in pairwise(places):
        reader.take(message[start:end])
    return reader


@pytest.mark.parametrize("message", [LENGTH, CHUNKED, CONTINUED])
@given(ends=st.lists(st.integers(0, 300), max_size=8))
def test_an_answer_in_any_pieces(message: bytes, ends: list[int]) -> None:
    reader = in_pieces(message, ends)
    assert (reader.whole, reader.reusable) == (True, True)
    answer = reader.answer()
    assert (answer.status, answer.body) == (200, b"abc")
    assert answer.headers.get("x-name") == (None if message is CHUNKED else "Value")


@pytest.mark.parametrize("message", [LENGTH, CHUNKED, CONTINUED])
@given(length=st.integers(0, 300))
def test_a_part_is_no_answer(message: bytes, length: int) -> None:
    reader = AnswerReader()
    reader.take(message[: length % len(message)])
    assert not reader.whole
    assert not reader.end()


@pytest.mark.parametrize(
    ("message", "status", "body"),
    [
        (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", 200, b"abc"),
        (OK + b"Content-Length: 3\r\nConnection: close\r\n\r\nabc", 200, b"abc"),
        (LENGTH + LENGTH.replace(b"abc", b"def").replace(b"200", b"500"), 200, b"abc"),
        (LENGTH + b"garbage", 200, b"abc"),
        (OK + b"Connection: close\r\nContent-Length: 3\r\n\r\nabcd", 200, b"abc"),
        (OK + b"\r\nuntil the end", 200, b"until the end"),
    ],
)
def test_a_connection_that_cannot_be_used_again(message: bytes, status: int, body: bytes) -> None:
    reader = AnswerReader()
    assert reader.take(message) or reader.end()
    assert (reader.answer().status, reader.answer().body, reader.reusable) == (status, body, False)


@pytest.mark.parametrize(
    "message",
    [
        b"\0\0\x18\x04\0\0\0\0\0",
        b"SSH-2.0-OpenSSH\r\n",
        OK + b"Content-Length: many\r\n\r\n",
        OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
        OK + b"Transfer-Encoding: chunked\r\n\r\nnothing\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    ],
)
def test_what_is_no_answer(message: bytes) -> None:
    with pytest.raises(httptools.HttpParserError):
        AnswerReader().take(message)


def test_a_request() -> None:
    assert request_bytes("GET", "/a", {"Host": "h:1"}) == b"GET /a HTTP/1.1\r\nHost: h:1\r\n\r\n"
    assert request_bytes("POST", "/a", {}, b"xy") == b"POST /a HTTP/1.1\r\nContent-Length: 2\r\n\r\nxy"
    assert request_bytes("POST", "/a", {}) == b"POST /a HTTP/1.1\r\nContent-Length: 0\r\n\r\n"


def test_an_answer_is_freed_without_the_garbage_collector() -> None:
    reader = AnswerReader()
    reader.take(LENGTH)
    reader.answer()
    gone = weakref.ref(reader)
    gc.disable()
    try:
        del reader
        assert gone() is None
    finally:
        gc.enable()


def test_the_host_that_is_asked_for() -> None:
    for url, host in {
        "http://host": "host:8000",
        "https://[::1]:5": "[::1]:5",
        "http://m\u00fcnchen:80": "xn--mnchen-3ya:80",
        f"http://{'x' * 63}": f"{'x' * 63}:8000",
    }.items():
        assert headers_to(Endpoint.parse(url))["Host"] == host
    assert name_for_tls("host.") == name_for_tls("host") == "host"
    assert name_for_tls("fe80::1%eth0") == "fe80::1"
