"""What is remembered of detectors, and for how long."""

from __future__ import annotations

import asyncio

import pytest

from detserve_client import AsyncFakeTransport, Card, Detections, ModelNotFound
from detserve_core.endpoint import Endpoint
from detserve_core.repository.manifest import read_manifest
from detserve_rest import detectors as module
from detserve_rest.detectors import Detectors
from detserve_rest.problems import Problem
from tests.live.conftest import COMMITTED

CARD = read_manifest(COMMITTED, "codes_yolo").card


def serving(card: Card) -> AsyncFakeTransport:
    return AsyncFakeTransport(card, lambda _: Detections.empty(card.labels))


def test_a_server_that_comes_back_with_other_labels_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def labels() -> list[list[str]]:
        found = []
        detectors = Detectors(Endpoint.parse("http://localhost:9"))
        for names in (["a"], ["b"]):
            detectors._transport = serving(CARD.model_copy(update={"labels": names}))
            found.append((await detectors.of("codes_yolo")).card.labels)
        return found

    assert asyncio.run(labels()) == [["a"], ["a"]]
    monkeypatch.setattr(module, "CARD_AGE_S", 0.0)
    assert asyncio.run(labels()) == [["a"], ["b"]]


def test_a_detector_that_has_gone_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CARD_AGE_S", 0.0)

    async def run() -> None:
        detectors = Detectors(Endpoint.parse("http://localhost:9"))
        detectors._transport = serving(CARD)
        await detectors.of("codes_yolo")
        detectors._transport = serving(CARD.model_copy(update={"name": "other"}))
        with pytest.raises(ModelNotFound):
            await detectors.of("codes_yolo")
        assert detectors._known == {}

    asyncio.run(run())


@pytest.mark.parametrize("name", ["", "a/b", "a b", "a" * 129, "-a", "a\n"])
def test_what_is_no_name_is_not_asked_for(name: str) -> None:
    async def run() -> None:
        await Detectors(Endpoint.parse("http://localhost:9")).of(name)

    with pytest.raises(Problem) as caught:
        asyncio.run(run())
    assert caught.value.kind == "model-not-found"
