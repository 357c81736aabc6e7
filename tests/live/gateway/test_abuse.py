"""Requests that are too large, too slow, too many or nonsense; the others are served all the while."""

from __future__ import annotations

import gzip
import json
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import urllib3

from detserve_client import AccessDenied, InferenceError, Overloaded, RequestRejected
from detserve_server.audit.record import record_of
from detserve_server.gateway.settings import RateLimits
from tests.live.gateway.conftest import CLIENT_TIMEOUT_S, YOLO, Site, read_all, wait_for

INFER = f"/v2/models/{YOLO}/infer"
LARGEST_BODY_BYTES = 16 * 2**20
LONGEST_JSON_BYTES = 3999
PARTS = {
    "inputs": [
        {"name": "IMAGE", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": 9}}
    ],
    "parameters": {"score_threshold": 0.5},
}


def post(site: Site, body: bytes, **headers: str) -> urllib3.BaseHTTPResponse:
    pool = urllib3.PoolManager(ca_certs=str(site.tls.authority))
    url = f"{site.gateway.http_url}{INFER}"
    return pool.request(
        "POST", url, body=body, headers={**site.security().headers(), **headers}, retries=False
    )


def resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


@pytest.mark.parametrize("key", ["alice", "wrong"])
def test_a_body_larger_than_the_limit(site: Site, protocol, sample, key) -> None:
    before_mib = resident_mib(site.triton.pid)
    with site.client(protocol, key) as client:
        client._card = site.client(protocol).card()
        with pytest.raises(InferenceError) as caught:
            client.detect(bytes(LARGEST_BODY_BYTES + 1))
    if key == "wrong":  # the client asks for the card first
        assert isinstance(caught.value, AccessDenied)
    else:
        assert isinstance(caught.value, RequestRejected)
        assert f"{LARGEST_BODY_BYTES} bytes" in str(caught.value)
    assert resident_mib(site.triton.pid) < before_mib + 64
    with site.client(protocol) as client:
        assert len(client.detect(sample)) > 0


def test_a_compressed_body_over_http(site: Site) -> None:
    answer = post(site, gzip.compress(b"{}"), **{"Content-Encoding": "gzip"})
    assert answer.status == 415


def test_a_compressed_message_over_grpc(site: Site) -> None:
    with channel_of(site) as channel, pytest.raises(grpc.RpcError) as caught:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        metadata = tuple(site.security().headers().items())
        call(b"", metadata=metadata, compression=grpc.Compression.Gzip, timeout=10)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Inference-Header-Content-Length": "4000"},
        {"Inference-Header-Content-Length": "10000"},
    ],
)
def test_json_longer_than_the_limit(site: Site, headers) -> None:
    """A request that is right but for its length; Triton 2.51 must not be sent long JSON."""
    text = json.dumps({"id": "", **PARTS})
    longest = text.replace('"id": ""', f'"id": "{"x" * (LONGEST_JSON_BYTES - len(text))}"').encode()
    answer = post(site, longest + b" ", **headers)
    assert answer.status == 422
    assert b"over 3999 bytes" in answer.data
    passed = post(site, longest)
    assert passed.status == 400  # Triton's own words: the tensor is not there
    assert b"over 3999 bytes" not in passed.data


def test_slow_headers(site: Site, sample) -> None:
    """200 connections that never finish their headers: closed, and others are answered meanwhile."""
    connections = [site.connect() for _ in range(200)]
    with site.client("grpc") as client:
        assert len(client.detect(sample)) > 0
    for connection in connections:
        connection.sendall(b"POST /v2 HTTP/1.1\r\nHost:")
    closed, ends_s = 0, time.monotonic() + 120
    while closed < len(connections) and time.monotonic() < ends_s:
        for connection in [one for one in connections if one.fileno() != -1]:
            connection.settimeout(0.01)
            try:
                connection.sendall(b"x")  # a byte now and then
                if connection.recv(1000) == b"":
                    raise ConnectionResetError
            except TimeoutError:
                continue
            except OSError:
                closed += 1
                connection.close()
        time.sleep(0.2)
    assert closed == len(connections)


def test_slow_bodies_hold_up_their_own_key_only(site: Site, sample) -> None:
    site.add_key("dawdler", limits=RateLimits(rate_per_s=100, concurrency=4))
    head = (
        f"POST {INFER} HTTP/1.1\r\nHost: g\r\nInference-Header-Content-Length: 10\r\nContent-Length: 1000\r\n"
    )
    head += f"Authorization: Bearer {site.keys['dawdler']}\r\n\r\n"
    slow = [site.connect() for _ in range(4)]
    try:
        for connection in slow:
            connection.sendall(head.encode() + b"{")
        time.sleep(0.3)
        with site.client("http", "dawdler") as client, pytest.raises(Overloaded, match="concurrent"):
            client.card()
        with site.client("http") as client:
            assert len(client.detect(sample)) > 0
        slow[0].settimeout(3 * CLIENT_TIMEOUT_S)
        assert b"200" not in read_all(slow[0])[:20]  # given up after the timeout
    finally:
        for connection in slow:
            connection.close()


@pytest.mark.slow
def test_ten_thousand_malformed_requests(site: Site, sample) -> None:
    """Seeded: 5,000 protobufs, 4,500 HTTP bodies, 500 connections of noise."""
    rng = random.Random(20261124)  # noqa: S311
    before_mib = resident_mib(site.triton.pid)
    answered = grpc_noise(site, rng, 5000) + http_noise(site, rng, 4500) + socket_noise(site, rng, 500)
    assert answered == 10_000
    site.triton.check_running(0.1)
    assert resident_mib(site.triton.pid) < before_mib + 100
    for protocol in ("grpc", "http"):
        with site.client(protocol) as client:
            assert len(client.detect(sample)) > 0


def grpc_noise(site: Site, rng: random.Random, count: int) -> int:
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name=YOLO, raw_input_contents=[b"\x05\0\0\0hello"])
    request.inputs.add(name="IMAGE", datatype="BYTES", shape=[1, 1])
    good, answered = request.SerializeToString(), 0
    metadata = tuple(site.security().headers().items())
    with channel_of(site) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for _ in range(count):
            with pytest.raises(grpc.RpcError) as caught:
                call(mutated(good, rng), metadata=metadata, timeout=20)
            answered += caught.value.code() not in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.DEADLINE_EXCEEDED,
            )
    return answered


def http_noise(site: Site, rng: random.Random, count: int) -> int:
    context = site.security().ssl_context()
    pool = urllib3.HTTPSConnectionPool(site.gateway.host, site.gateway.port, ssl_context=context)
    text = json.dumps(PARTS).encode()
    lengths = [str(len(text)), "0", "-1", "x", "9999999999", "18446744073709551615", ""]
    answered = 0
    for _ in range(count):
        headers = {"Inference-Header-Content-Length": rng.choice([*lengths, str(rng.randrange(400))])}
        if not headers["Inference-Header-Content-Length"]:
            headers = {}
        body = mutated(text + b"\x05\0\0\0hello", rng)
        answer = pool.request(
            "POST",
            INFER,
            body=body,
            headers={**headers, **site.security().headers()},
            retries=False,
            timeout=20,
        )
        answered += answer.status in (400, 404, 422, 500)
    return answered


HTTP2_OPENING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def socket_noise(site: Site, rng: random.Random, count: int) -> int:
    answered = 0
    for _ in range(count):
        opening = rng.choice([b"", HTTP2_OPENING, b"POST /v2 HTTP/1.1\r\n", b"GET /"])
        with site.connect(["h2"] if opening == HTTP2_OPENING else []) as connection:
            connection.settimeout(10)
            connection.sendall(opening + rng.randbytes(rng.randrange(1, 2000)))
            socket.socket.shutdown(connection, socket.SHUT_WR)  # its own would end the decryption too
            reply = read_all(connection, must_close=True)
        answered += is_refusal(reply)
    return answered


def is_refusal(reply: bytes) -> bool:
    """Nothing, an HTTP error, or HTTP/2 frames without an answer to any request."""
    if reply[:5] == b"HTTP/":
        return reply.split(b" ", 2)[1][:1] == b"4"
    if reply[:9] == b'{"error":':  # to a line that is a request of HTTP/0.9
        return True
    while reply:
        if reply[3] == 1:  # HEADERS
            return False
        reply = reply[9 + int.from_bytes(reply[:3], "big") :]
    return True


@pytest.mark.parametrize("reply", [b"HTTP/1.1 200 OK\r\n", b"\0\0\1\1\4\0\0\0\1\x88"])
def test_an_answer_to_noise_would_be_seen(reply) -> None:
    assert not is_refusal(reply)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Bytes changed, cut out, put in and cut off; or noise alone."""
    if rng.random() < 0.2:
        return rng.randbytes(rng.randrange(400))
    changed = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(changed) + 1)
        kind = rng.random()
        if kind < 0.5:
            changed[place : place + 1] = rng.randbytes(1)
        elif kind < 0.75:
            del changed[place : place + rng.randint(1, 4)]
        else:
            changed[place:place] = rng.randbytes(rng.randint(1, 8))
    return bytes(changed[: rng.randrange(len(changed) + 1)] if rng.random() < 0.2 else changed)


@pytest.mark.parametrize("path", ["/inference", "/%69nference", "//inference"])
@pytest.mark.parametrize("content_type", ["", "Content-Type: application/json\r\n"])
def test_a_refused_grpc_call_is_not_logged_as_a_success(site: Site, path, content_type) -> None:
    lines = site.settled()
    head = f"POST {path}.GRPCInferenceService/ModelInfer HTTP/1.1\r\nHost: g\r\nContent-Length: 0\r\n"
    site.send(f"{head}{content_type}Connection: close\r\n\r\n".encode())
    assert next_record(site, lines)["outcome"] == "denied"


def test_the_headers_of_an_inference_do_not_decide_its_outcome(site: Site, sample) -> None:
    """Neither does it take a request off the bill nor count as a failure of the server."""
    from tritonclient.grpc import service_pb2

    picture = sample.read_bytes()
    tensor = len(picture).to_bytes(4, "little") + picture
    image = {**PARTS["inputs"][0], "parameters": {"binary_data_size": len(tensor)}}
    text = json.dumps({"inputs": [image]}).encode()
    lines = site.settled()
    length = {"Inference-Header-Content-Length": str(len(text))}
    answer = post(site, text + tensor, **length, **{"Content-Type": "application/grpc"})
    assert answer.status == 200
    record = next_record(site, lines)
    assert (record["protocol"], record["outcome"]) == ("http", "ok")

    request = service_pb2.ModelInferRequest(model_name=YOLO, raw_input_contents=[tensor])
    request.inputs.add(name="IMAGE", datatype="BYTES", shape=[1, 1])
    message = request.SerializeToString()
    url = f"{site.gateway.http_url}/inference.GRPCInferenceService/ModelInfer"
    for number, headers in enumerate([{}, {"TE": "trailers"}, {"Content-Type": "text/plain"}], 1):
        with urllib3.PoolManager(ca_certs=str(site.tls.authority), retries=False) as pool:
            body = b"\0" + len(message).to_bytes(4, "big") + message
            pool.request("POST", url, body=body, headers={**site.security().headers(), **headers})
        record = next_record(site, lines + number)
        assert (record["protocol"], record["outcome"]) == ("grpc", "ok"), headers


def next_record(site: Site, lines: int) -> dict[str, Any]:
    """What the audit makes of the access log's line after the first ``lines``."""
    wait_for(lambda: len(site.log()) > lines)
    return record_of(site.gateway.access_log.read_bytes().splitlines()[lines])


@pytest.mark.parametrize(
    "evil",
    [
        '"}\r\nX: 1',
        '","client":"root","x":"',
        '{"time":"1970"}',
        "\\u000a{}",
        "a\u2028b",
        "\x1b[31m",
        "\xff\xfe",
        "${jndi:ldap://x}",
    ],
)
def test_log_injection(site: Site, evil) -> None:
    lines = site.settled()
    wire = evil.encode("latin-1", "replace").replace(b"\r", b"").replace(b"\n", b"")
    path = wire.replace(b" ", b"+")
    request = b"GET /v2/models/%b/ready HTTP/1.1\r\nHost: g\r\n" % path
    request += b"detserve-model: %b\r\nUser-Agent: %b\r\nAuthorization: Bearer %b\r\n" % (wire, wire, wire)
    request += b"Connection: close\r\n\r\n"
    site.send(request)
    wait_for(lambda: len(site.log()) == lines + 1)  # every line is JSON
    log = site.log()
    assert log[-1]["client"] == ""
    assert set(log[-1]) == set(log[0])
    assert log[-1]["model"] == ""


def test_a_flood_of_one_client_is_refused_and_takes_no_place_of_another(site: Site, sample) -> None:
    site.add_key("flooder", limits=RateLimits(rate_per_s=8, concurrency=1))
    stop, refused = threading.Event(), list[str]()

    def flood() -> None:
        with site.client("grpc", "flooder") as client:
            client._card = card
            while not stop.wait(0.01):
                try:
                    client.detect(sample)
                except Overloaded as refusal:
                    refused.append(str(refusal))

    with site.client("grpc") as client:
        card = client.card()
        expected = client.detect(sample)
        with ThreadPoolExecutor(6) as pool:
            floods = [pool.submit(flood) for _ in range(6)]
            try:
                wait_for(lambda: len(refused) > 20)
                assert all(client.detect(sample) == expected for _ in range(60))
                wait_for(lambda: len(refused) > 100)
            finally:
                stop.set()
            for one in floods:
                one.result()
    assert all("over its rate" in one or "concurrent" in one for one in refused), (
        "by the gateway, not by Triton"
    )


def channel_of(site: Site) -> grpc.Channel:
    return grpc.secure_channel(
        site.gateway.grpc_url.removeprefix("grpcs://"), site.security().grpc_credentials()
    )
