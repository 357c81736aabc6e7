"""A client without the name of a detector, and what is said of those that there are."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from detserve_client import (
    AccessDenied,
    AsyncClient,
    AsyncFakeTransport,
    Card,
    Client,
    Detections,
    FakeTransport,
    ModelNotFound,
)


class Several(FakeTransport):
    """Has the detectors ``names`` and a step that is not one."""

    def __init__(self, card: Card, names: list[str]) -> None:
        super().__init__(card, lambda request: Detections.empty(card.labels))
        self.names = names

    def models(self, timeout_s: float) -> list[str]:
        return [*self.names, "step"]

    def model_config(self, model: str, timeout_s: float) -> dict[str, Any]:
        if model not in self.models(timeout_s):
            raise ModelNotFound(f"there is no {model}")
        return {"name": model} if model == "step" else super().model_config(self.card.name, timeout_s)


@pytest.mark.parametrize("wrap", [Client, AsyncClient])
def test_the_only_detector_needs_no_name(card: Card, wrap: type[Client] | type[AsyncClient]) -> None:
    if wrap is Client:
        with Client("pets", transport=Several(card, ["pets"])) as client:
            assert repr(client) == "Client('grpc://pets:8001', None)"
            assert client.ready()
            assert client.labels == tuple(card.labels)
            assert client.models() == [client.model] == ["pets"]
            assert repr(client) == "Client('grpc://pets:8001', 'pets')"
        return

    async def go() -> None:
        answer = lambda request: Detections.empty(card.labels)  # noqa: E731
        async with AsyncClient("pets", transport=AsyncFakeTransport(card, answer)) as client:
            assert len(await client.detect(b"picture")) == 0
            assert await client.models() == [client.model] == ["pets"]

    asyncio.run(go())


@pytest.mark.parametrize(
    ("names", "model", "sentence"),
    [
        (["b", "a"], None, 'grpc://pets:8001 serves 2 detectors, a, b: name one .model="NAME" in Python'),
        ([], None, "grpc://pets:8001 serves no detector"),
        (["b", "a"], "c", 'there is no c; the detectors there: a, b .model="NAME" in Python, --model NAME'),
    ],
)
def test_which_detectors_there_are(card: Card, names: list[str], model: str | None, sentence: str) -> None:
    with Client("pets", model, transport=Several(card, names)) as client:
        with pytest.raises(ModelNotFound, match=sentence):
            client.detect(b"picture")


def test_a_server_that_does_not_list_its_detectors(card: Card) -> None:
    class Guarded(Several):
        def models(self, timeout_s: float) -> list[str]:
            raise AccessDenied("grpcs://pets refuses this client: forbidden")

        def model_config(self, model: str, timeout_s: float) -> dict[str, Any]:
            raise ModelNotFound("there is no c")

    with pytest.raises(AccessDenied, match="does not list its detectors to this client, so name yours"):
        Client("pets", transport=Guarded(card, [])).card()
    with pytest.raises(ModelNotFound, match="^there is no c$"):
        Client("pets", "c", transport=Guarded(card, [])).card()
