"""The detectors behind the service: a client for each, all on one connection."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from detserve_client.async_client import AsyncClient
from detserve_client.transports import async_transport_to
from detserve_core.card import Card
from detserve_core.contract import PRECISION_PARAMETER
from detserve_core.endpoint import Endpoint
from detserve_core.errors import ContractViolation, InferenceError
from detserve_rest.problems import Problem

#: How long a request may take.
TIMEOUT_S = 30.0
#: How long a server that goes away is waited for.
PATIENCE_S = 2.0
#: A server that comes back may have a detector of the same name and other labels.
CARD_AGE_S = 5.0
#: A server is not asked for a model of another name.
NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"


@dataclass
class Detector:
    """A detector, and its card as it was asked for at ``asked_s`` of ``time.monotonic``."""

    client: AsyncClient
    card: Card
    asked_s: float


class Detectors:
    """The detectors of one server; for one event loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._url = str(endpoint)
        self._transport = async_transport_to(endpoint)
        self._known: dict[str, Detector] = {}
        self._names: list[str] = []
        self._listed_s = float("-inf")

    async def of(self, name: str) -> Detector:
        """The detector of that name, with a card that is :data:`CARD_AGE_S` old at most.

        Raises:
            Problem: the model is not a detector.
            InferenceError: there is none, or the server cannot be asked.
        """
        now_s = time.monotonic()
        known = self._known.get(name)
        if known is not None and now_s - known.asked_s < CARD_AGE_S:
            return known
        if known is not None:
            known.asked_s = now_s  # one request asks, the others go on
        if not re.fullmatch(NAME, name):
            raise Problem("model-not-found", f"{name[:80]!r} is no name of a detector")
        client = self._client(name)
        try:
            detector = Detector(client, await client.card(), now_s)
        except ContractViolation as error:
            self._known.pop(name, None)
            raise Problem("model-not-found", str(error)) from None
        except InferenceError:
            self._known.pop(name, None)
            raise
        self._known[name] = detector
        return detector

    async def names(self) -> Sequence[str]:
        """The names of all detectors that the server has ready, at most :data:`CARD_AGE_S` ago.

        Raises:
            InferenceError: the server cannot be asked.
        """
        now_s = time.monotonic()
        if now_s - self._listed_s >= CARD_AGE_S:
            self._names = await self._client(None).models()
            self._listed_s = now_s
        return self._names

    async def precision(self, name: str) -> str | None:
        """What a detector's network was built in; None where its build is of a time when that was not said.

        Raises:
            InferenceError: the server cannot be asked.
        """
        config = await self._transport.model_config(name, PATIENCE_S)
        said = config.get("parameters", {}).get(PRECISION_PARAMETER)
        return None if said is None else str(said["string_value"])

    async def ready(self) -> bool:
        """Whether the server takes requests."""
        try:
            return await self._transport.server_ready(PATIENCE_S)
        except InferenceError:
            return False

    async def close(self) -> None:
        """Close the connection."""
        await self._transport.close()

    def _client(self, name: str | None) -> AsyncClient:
        return AsyncClient(self._url, name, timeout_s=PATIENCE_S, transport=self._transport)
