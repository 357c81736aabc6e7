from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detserve_client import (
    Card,
    Client,
    ContractViolation,
    DeadlineExceeded,
    Detections,
    EndpointError,
    FakeTransport,
    InferenceError,
    ModelNotFound,
    Overloaded,
    RequestRejected,
    ServerUnavailable,
)
from detserve_client.engine.cancellation import Cancellation
from detserve_client.engine.wire import DetectionRequest, Outputs


class CountingTransport(FakeTransport):
    """A fake that keeps what it was asked."""

    def __init__(self, card: Card, answer: Callable[[DetectionRequest], Detections | Outputs]) -> None:
        super().__init__(card, answer)
        self.requests: list[DetectionRequest] = []
        self.timeouts_s: list[float] = []
        self.configs = 0
        self.closed = 0

    def infer(
        self, request: DetectionRequest, timeout_s: float, cancellation: Cancellation | None = None
    ) -> Outputs:
        self.requests.append(request)
        self.timeouts_s.append(timeout_s)
        return super().infer(request, timeout_s, cancellation)

    def model_config(self, model: str, timeout_s: float) -> dict[str, Any]:
        self.configs += 1
        return super().model_config(model, timeout_s)

    def close(self) -> None:
        self.closed += 1


def failing(*errors: InferenceError, then: Detections) -> Callable[[DetectionRequest], Detections]:
    left = list(errors)

    def answer(request: DetectionRequest) -> Detections:
        if left:
            raise left.pop(0)
        return then

    return answer


def client_of(transport: FakeTransport, **options: Any) -> Client:
    return Client("grpc://fake", "pets", transport=transport, **options)


def test_detect(card: Card, found: Detections, tmp_path: Path) -> None:
    transport = CountingTransport(card, lambda request: found)
    path = tmp_path / "a.jpg"
    path.write_bytes(b"encoded")
    with client_of(transport) as client:
        assert client.detect(path, score_threshold=0.2, iou_threshold=0.5, max_detections=3) == found
        assert client.detect(str(path)) == found
        assert client.card() == card
        assert client.ready()
    assert transport.requests[0] == DetectionRequest(
        "pets", (b"encoded",), {"score_threshold": 0.2, "iou_threshold": 0.5, "max_detections": 3}
    )
    assert transport.requests[1].parameters == {}
    assert transport.configs == 1
    assert transport.closed == 1


def test_another_model_is_not_found(card: Card, found: Detections) -> None:
    with Client("grpc://fake", "cars", transport=FakeTransport(card, lambda request: found)) as client:
        assert not client.ready()
        with pytest.raises(ModelNotFound, match="'cars'"):
            client.detect(b"picture")


def test_wrong_address() -> None:
    with pytest.raises(EndpointError, match="'pets:no'"):
        Client("pets:no", "pets")


def test_an_answer_against_the_contract(card: Card) -> None:
    with client_of(FakeTransport(card, lambda request: {})) as client, pytest.raises(ContractViolation):
        client.detect(b"picture")


def test_wrong_parameters_are_never_sent(card: Card, found: Detections) -> None:
    transport = CountingTransport(card, lambda request: found)
    with client_of(transport) as client:
        with pytest.raises(RequestRejected, match="score_threshold is 2"):
            client.detect(b"picture", score_threshold=2)
        with pytest.raises(RequestRejected, match="score_threshold is 2"):
            client.detect_stream([b"picture"], score_threshold=2)
        with pytest.raises(ValueError, match="timeout_s is 0"):
            client.detect(b"picture", timeout_s=0)
        with pytest.raises(ValueError, match="window is 0"):
            client.detect_stream([b"picture"], window=0)
    assert transport.requests == []


def test_an_unavailable_server_is_tried_again(card: Card, found: Detections) -> None:
    refused = [ServerUnavailable("refused")] * 3
    transport = CountingTransport(card, failing(*refused, then=found))
    with client_of(transport) as client:
        assert client.detect(b"picture", timeout_s=20) == found
    assert len(transport.requests) == 4
    assert transport.timeouts_s == sorted(transport.timeouts_s, reverse=True)
    assert 0 < transport.timeouts_s[-1] < 20


def test_a_server_that_never_answered_is_tried_four_times(card: Card, found: Detections) -> None:
    tries = 0

    class Absent(FakeTransport):
        def model_config(self, model: str, timeout_s: float) -> dict[str, Any]:
            nonlocal tries
            tries += 1
            raise ServerUnavailable("refused")

    with client_of(Absent(card, lambda request: found)) as client:
        with pytest.raises(ServerUnavailable, match="refused"):
            client.detect(b"picture")
    assert tries == 4


def test_a_server_that_has_answered_is_waited_for(card: Card, found: Detections) -> None:
    transport = CountingTransport(card, failing(*[ServerUnavailable("restarting")] * 6, then=found))
    with client_of(transport) as client:
        assert client.detect(b"picture", timeout_s=20) == found
    assert len(transport.requests) == 7


def test_no_try_past_the_deadline(card: Card, found: Detections) -> None:
    transport = CountingTransport(card, failing(*[ServerUnavailable("refused")] * 4, then=found))
    with client_of(transport) as client, pytest.raises(ServerUnavailable):
        client.detect(b"picture", timeout_s=0.02)
    assert len(transport.requests) == 1


@pytest.mark.parametrize("kind", [DeadlineExceeded, Overloaded, RequestRejected])
def test_nothing_else_is_tried_again(card: Card, found: Detections, kind: type[InferenceError]) -> None:
    transport = CountingTransport(card, failing(kind("said"), then=found))
    with client_of(transport) as client, pytest.raises(kind):
        client.detect(b"picture")
    assert len(transport.requests) == 1


def test_a_model_that_was_there_is_waited_for(card: Card, found: Detections) -> None:
    """A server that goes down says that the model has no available versions."""
    away = [ModelNotFound("has no available versions")] * 2
    transport = CountingTransport(card, failing(*away, then=found))
    with client_of(transport) as client:
        assert client.detect(b"picture", timeout_s=20) == found
    assert len(transport.requests) == 3


def test_a_model_that_never_was_there_is_not_waited_for(card: Card, found: Detections) -> None:
    class Without(CountingTransport):
        def model_config(self, model: str, timeout_s: float) -> dict[str, Any]:
            self.configs += 1
            raise ModelNotFound("request for unknown model")

    transport = Without(card, lambda request: found)
    with client_of(transport) as client, pytest.raises(ModelNotFound):
        client.detect(b"picture", timeout_s=20)
    assert transport.configs == 2  # once more while looking for the detectors that there are


def test_the_card_is_fetched_with_retries_too(card: Card, found: Detections) -> None:
    class Starting(FakeTransport):
        refusals = 2

        def model_config(self, model: str, timeout_s: float) -> dict[str, Any]:
            if self.refusals:
                self.refusals -= 1
                raise ServerUnavailable("starting")
            return super().model_config(model, timeout_s)

    with client_of(Starting(card, lambda request: found)) as client:
        assert client.card() == card


def test_ready_is_false_where_no_server_is(card: Card, found: Detections) -> None:
    class Gone(FakeTransport):
        def ready(self, model: str, timeout_s: float) -> bool:
            raise ServerUnavailable("refused")

    with client_of(Gone(card, lambda request: found)) as client:
        assert not client.ready()
