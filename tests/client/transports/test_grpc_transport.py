from __future__ import annotations

import socket
import threading
from typing import Any

import grpc
import pytest

from detserve_client import (
    Card,
    Client,
    ContractViolation,
    DeadlineExceeded,
    Detections,
    InferenceError,
    Overloaded,
    RequestRejected,
    ServerFault,
    ServerUnavailable,
)
from detserve_client.engine.faults import BY_GRPC_CODE
from tests.client.transports.triton_grpc import grpc_server, infer_response


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return port


def test_a_picture_and_its_parameters_arrive(card: Card, found: Detections) -> None:
    requests: list[Any] = []

    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        requests.append(request)
        return infer_response(found)

    with grpc_server(card, answer) as url, Client(url, "pets") as client:
        assert client.ready()
        assert client.card() == card
        picture = b"\0\xff" * (3 << 20)
        detections = client.detect(picture, score_threshold=0.2, max_detections=3)
    assert detections == found
    (request,) = requests
    assert request.model_name == "pets"
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in request.inputs] == [
        ("IMAGE", "BYTES", [1, 1])
    ]
    assert request.raw_input_contents[0][4:] == picture
    assert request.parameters["score_threshold"].double_param == 0.2
    assert request.parameters["max_detections"].int64_param == 3
    assert set(request.parameters) == {"score_threshold", "max_detections", "timeout"}
    assert 0 < request.parameters["timeout"].int64_param <= 30_000_000


def test_another_model_is_not_ready(card: Card, found: Detections) -> None:
    with grpc_server(card, lambda *_: infer_response(found)) as url, Client(url, "cars") as client:
        assert not client.ready()


@pytest.mark.parametrize(("code", "kind"), BY_GRPC_CODE.items())
def test_every_status_becomes_its_error(card: Card, code: str, kind: type[InferenceError]) -> None:
    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        context.abort(getattr(grpc.StatusCode, code), "some words")

    with grpc_server(card, answer) as url, Client(url, "pets") as client:
        client.card()
        with pytest.raises(kind) as caught:
            client.detect(b"picture", timeout_s=0.5)
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("code", "text", "kind", "sentence"),
    [
        (
            "INTERNAL",
            "in ensemble 'pets', picture 0: not a JPEG",
            RequestRejected,
            "the picture is rejected: not a JPEG",
        ),
        ("INTERNAL", "in ensemble 'pets', boom", ServerFault, "failed: boom"),
        (
            "UNAVAILABLE",
            "in ensemble 'pets', Exceeds maximum queue size",
            Overloaded,
            "is overloaded: Exceeds",
        ),
    ],
)
def test_what_triton_says_counts_more_than_its_status(
    card: Card, code: str, text: str, kind: type[InferenceError], sentence: str
) -> None:
    calls = 0

    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        nonlocal calls
        calls += 1
        context.abort(getattr(grpc.StatusCode, code), text)

    with (
        grpc_server(card, answer) as url,
        Client(url, "pets") as client,
        pytest.raises(kind, match=sentence),
    ):
        client.detect(b"picture")
    assert calls == 1


def test_an_unavailable_server_is_tried_again(card: Card, found: Detections) -> None:
    calls = 0

    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        nonlocal calls
        calls += 1
        if calls < 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, "loading")
        return infer_response(found)

    with grpc_server(card, answer) as url, Client(url, "pets") as client:
        assert client.detect(b"picture") == found
    assert calls == 3


def test_no_answer_in_time(card: Card, found: Detections) -> None:
    done, calls = threading.Event(), 0

    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        nonlocal calls
        calls += 1
        done.wait(10)
        return infer_response(found)

    with grpc_server(card, answer) as url, Client(url, "pets") as client:
        client.card()
        with pytest.raises(DeadlineExceeded, match=rf"no answer from {url} within 0\.\d+ s"):
            client.detect(b"picture", timeout_s=0.2)
        done.set()
    assert calls == 1


def test_nobody_listens() -> None:
    url = f"grpc://127.0.0.1:{closed_port()}"
    with Client(url, "pets") as client:
        assert not client.ready()
        with pytest.raises(ServerUnavailable, match=f"^{url} cannot be reached: Connection refused; is the"):
            client.detect(b"picture")


def test_a_server_that_comes_back_is_found_again(card: Card, found: Detections) -> None:
    port = closed_port()
    with Client(f"grpc://127.0.0.1:{port}", "pets") as client:
        with pytest.raises(ServerUnavailable):
            client.detect(b"picture")
        with grpc_server(card, lambda *_: infer_response(found), f"127.0.0.1:{port}"):
            for _ in range(20):
                if client.ready():
                    break
                threading.Event().wait(0.25)
            assert client.detect(b"picture") == found


def test_a_torn_tensor(card: Card, found: Detections) -> None:
    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        response = infer_response(found)
        response.raw_output_contents[1] = b"abc"
        return response

    with (
        grpc_server(card, answer) as url,
        Client(url, "pets") as client,
        pytest.raises(ContractViolation, match="cannot be read"),
    ):
        client.detect(b"picture")
