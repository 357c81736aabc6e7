from __future__ import annotations

import socket
import threading

import pytest

from detserve_client import (
    Card,
    Client,
    ContractViolation,
    DeadlineExceeded,
    Detections,
    InferenceError,
    ModelNotFound,
    Overloaded,
    RequestRejected,
    ServerUnavailable,
)
from detserve_client.engine.faults import BY_HTTP_STATUS
from detserve_client.engine.wire import DetectionRequest
from detserve_client.transports import transport_to
from detserve_core.endpoint import Endpoint
from tests.client.transports.triton_http import (
    HEADER_LENGTH,
    Received,
    Reply,
    error_reply,
    http_server,
    infer_reply,
)


def test_a_picture_and_its_parameters_arrive(card: Card, found: Detections) -> None:
    received: list[Received] = []

    def answer(request: Received) -> Reply:
        received.append(request)
        return infer_reply(found)

    with http_server(card, answer) as url, Client(url, "pets") as client:
        assert client.ready()
        assert client.card() == card
        assert client.detect(b"\xff\xd8\0picture", iou_threshold=1, max_detections=3) == found
    (request,) = received
    assert request.picture == b"\xff\xd8\0picture"
    assert 0 < request.header["parameters"].pop("timeout") <= 30_000_000
    assert request.header["parameters"] == {"iou_threshold": 1.0, "max_detections": 3}
    assert request.header["inputs"][0]["shape"] == [1, 1]


def test_many_share_the_pool(card: Card, found: Detections) -> None:
    with (
        http_server(card, lambda request: infer_reply(found)) as url,
        Client(url, "pets") as client,
    ):
        outcomes = list(client.detect_stream([b"picture"] * 40, window=8))
    assert [outcome.get() for outcome in outcomes] == [found] * 40


def test_another_model_is_not_ready_and_not_found(card: Card, found: Detections) -> None:
    with (
        http_server(card, lambda request: infer_reply(found)) as url,
        Client(url, "a/b") as client,
    ):
        assert not client.ready()
        with pytest.raises(ModelNotFound, match="has no model 'a/b' ready"):
            client.detect(b"picture")


@pytest.mark.parametrize(("status", "kind"), [*BY_HTTP_STATUS.items(), (302, ContractViolation)])
def test_every_status_becomes_its_error(card: Card, status: int, kind: type[InferenceError]) -> None:
    reply = Reply(status, b"<html>a gateway</html>", {"Location": "http://elsewhere.invalid/"})
    with http_server(card, lambda request: reply) as url, Client(url, "pets") as client:
        client.card()
        with pytest.raises(kind) as caught:
            client.detect(b"picture", timeout_s=0.5)
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("status", "text", "kind", "sentence"),
    [
        (
            500,
            "in ensemble 'pets', picture 0: not a JPEG",
            RequestRejected,
            "^the picture is rejected: not a JPEG$",
        ),
        (503, "Exceeds maximum queue size", Overloaded, "is overloaded: Exceeds maximum queue size"),
    ],
)
def test_what_triton_says_counts_more_than_its_status(
    card: Card, status: int, text: str, kind: type[InferenceError], sentence: str
) -> None:
    with (
        http_server(card, lambda request: error_reply(status, text)) as url,
        Client(url, "pets") as client,
        pytest.raises(kind, match=sentence),
    ):
        client.detect(b"picture")


def test_an_unavailable_server_is_tried_again(card: Card, found: Detections) -> None:
    replies = [error_reply(503, "loading"), error_reply(503, "loading"), infer_reply(found)]
    with http_server(card, lambda request: replies.pop(0)) as url, Client(url, "pets") as client:
        assert client.detect(b"picture") == found
    assert replies == []


def test_no_answer_in_time(card: Card, found: Detections) -> None:
    done = threading.Event()

    def answer(request: Received) -> Reply:
        done.wait(10)
        return infer_reply(found)

    with http_server(card, answer) as url, Client(url, "pets") as client:
        client.card()
        with pytest.raises(DeadlineExceeded, match=rf"no answer from {url} within 0\.\d+ s"):
            client.detect(b"picture", timeout_s=0.2)
        done.set()


def test_a_server_that_takes_no_bytes(card: Card) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        transport = transport_to(Endpoint.parse(url))
        with pytest.raises(DeadlineExceeded):
            transport.infer(DetectionRequest("pets", (bytes(50_000_000),), {}), 0.3)
        transport.close()


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with Client(url, "pets") as client:
            assert not client.ready()
            with pytest.raises(ServerUnavailable, match=f"^{url} cannot be reached: Connection refused; is"):
                client.detect(b"picture")


def test_no_such_host() -> None:
    with (
        Client("http://no-such-host.invalid", "pets") as client,
        pytest.raises(ServerUnavailable, match=r"no-such-host\.invalid:8000 cannot be reached"),
    ):
        client.detect(b"picture")


@pytest.mark.parametrize(
    ("first_bytes", "kind", "sentence"),
    [
        (b"", ServerUnavailable, "cannot be reached"),
        (b"\0\0\x18\x04\0\0", ContractViolation, "does not speak HTTP; is that its gRPC port"),
    ],
)
def test_a_peer_that_is_no_http_server(first_bytes: bytes, kind: type[InferenceError], sentence: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def say() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                with peer:
                    peer.recv(65536)
                    peer.sendall(first_bytes)

        thread = threading.Thread(target=say, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with Client(url, "pets") as client, pytest.raises(kind, match=sentence):
            client.detect(b"picture")
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


@pytest.mark.parametrize(
    "change",
    [
        lambda reply: Reply(body=b"<html>"),
        lambda reply: Reply(body=b"{}"),
        lambda reply: Reply(body=reply.body[:-3], headers=reply.headers),
        lambda reply: Reply(body=reply.body, headers={HEADER_LENGTH: "many"}),
        lambda reply: Reply(body=reply.body, headers={HEADER_LENGTH: "7"}),
    ],
)
def test_an_answer_that_cannot_be_read(card: Card, found: Detections, change: object) -> None:
    reply = change(infer_reply(found))  # type: ignore[operator]
    with (
        http_server(card, lambda request: reply) as url,
        Client(url, "pets") as client,
        pytest.raises(ContractViolation),
    ):
        client.detect(b"picture")
