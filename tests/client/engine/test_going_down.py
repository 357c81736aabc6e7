"""A server that goes down does not know its models for a while: what the client makes of that."""

from __future__ import annotations

import pytest

from detserve_client import Card, Client, Detections, ModelNotFound, ServerUnavailable
from detserve_client.engine.faults import error_from_grpc
from detserve_client.transports import FakeTransport


class GoingDown(FakeTransport):
    """Says ``unknown`` times that it has no model, and whether it is ready as ``ready_says`` says."""

    def __init__(self, card: Card, found: Detections, *, unknown: int, ready_says: bool | Exception) -> None:
        super().__init__(card, lambda _: found)
        self.unknown, self.ready_says, self.asked = unknown, ready_says, 0

    def server_ready(self, timeout_s: float) -> bool:
        self.asked += 1
        if isinstance(self.ready_says, Exception):
            raise self.ready_says
        return self.ready_says

    def _require(self, model: str) -> None:
        if self.unknown > 0:
            self.unknown -= 1
            raise ModelNotFound("no such model")


def _client(transport: GoingDown) -> Client:
    return Client("grpc://here", transport.card.name, transport=transport, timeout_s=0.6)


def test_the_first_call_is_tried_again(card: Card, found: Detections) -> None:
    transport = GoingDown(card, found, unknown=1, ready_says=False)
    assert _client(transport).detect(b"\xff\xd8") == found
    assert transport.asked == 1


@pytest.mark.parametrize("ready_says", [False, ServerUnavailable("gone")])
def test_one_that_goes_down_is_not_said_to_lack_the_model(
    card: Card, found: Detections, ready_says: bool | Exception
) -> None:
    with pytest.raises(
        ServerUnavailable, match="grpc://here:8001 is not ready: it is going down or still starting"
    ):
        _client(GoingDown(card, found, unknown=100, ready_says=ready_says)).detect(b"\xff\xd8")


@pytest.mark.parametrize("ready_says", [True, ModelNotFound("a gateway that does not say")])
def test_one_that_is_ready_lacks_the_model(
    card: Card, found: Detections, ready_says: bool | Exception
) -> None:
    transport = GoingDown(card, found, unknown=100, ready_says=ready_says)
    with pytest.raises(ModelNotFound, match="no such model"):
        _client(transport).detect(b"\xff\xd8")
    assert transport.unknown >= 97, "it was not tried again"


@pytest.mark.parametrize(
    "text",
    ["[request id: 7] Server is stopping, scheduler for model has stopped accepting new inference requests",
     "Server not ready"],
)  # fmt: skip
def test_what_triton_says_meanwhile(text: str) -> None:
    error = error_from_grpc("UNAVAILABLE", text, url="grpc://here", model="pets")
    assert str(error) == "grpc://here is not ready: it is going down or still starting; try again"
