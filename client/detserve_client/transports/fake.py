"""A server in memory, for the tests of code that uses a client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from detserve_client.engine.cancellation import Cancellation
from detserve_client.engine.wire import DetectionRequest, Outputs, config_with, padded_outputs
from detserve_core.card import Card
from detserve_core.contract import OUTPUTS
from detserve_core.detections import Detections
from detserve_core.errors import AccessDenied, ModelNotFound

Answer = Callable[[DetectionRequest], "Detections | Outputs"]


class FakeTransport:
    """Answers with what ``answer`` returns, or fails with what it raises; no server is needed.

    Usage::

        transport = FakeTransport(card, lambda request: Detections.empty(card.labels))
        client = Client("grpc://fake", card.name, transport=transport)

    Args:
        card: the served detector; its ``name`` is the model's.
        answer: called for each picture with a request for this one. Detections are sorted by score and cut to
            the card's ``max_detections`` as a server does; output tensors go through unchanged.
    """

    def __init__(self, card: Card, answer: Answer) -> None:
        self.card = card
        self._answer = answer

    def infer(
        self, request: DetectionRequest, timeout_s: float, cancellation: Cancellation | None = None
    ) -> Outputs:
        """Ask ``answer`` for each picture."""
        self._require(request.model)
        answers = [
            self._outputs(DetectionRequest(request.model, (picture,), request.parameters))
            for picture in request.pictures
        ]
        if len(answers) == 1:
            return answers[0]
        return {name: np.concatenate([answer[name] for answer in answers]) for name in OUTPUTS}

    def model_config(self, model: str, timeout_s: float) -> dict[str, Any]:
        """A configuration that holds the card."""
        self._require(model)
        return config_with(self.card)

    def ready(self, model: str, timeout_s: float) -> bool:
        """Whether ``model`` is the card's name."""
        return model == self.card.name

    def server_ready(self, timeout_s: float) -> bool:
        """Always."""
        return True

    def models(self, timeout_s: float) -> list[str]:
        """The card's name alone."""
        return [self.card.name]

    def shared_regions(self, timeout_s: float) -> list[str]:
        """Refuse: frames travel as JPEG."""
        raise AccessDenied("the fake server does not read shared memory")

    def register_region(self, name: str, key: str, size_bytes: int, timeout_s: float) -> None:
        """Refuse."""
        raise AccessDenied("the fake server does not read shared memory")

    def unregister_region(self, name: str, timeout_s: float) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def _outputs(self, request: DetectionRequest) -> Outputs:
        answer = self._answer(request)
        if isinstance(answer, Detections):
            return padded_outputs(answer, self.card.thresholds.max_detections)
        return answer

    def _require(self, model: str) -> None:
        if model != self.card.name:
            raise ModelNotFound(f"the fake server has no model {model!r}; it has {self.card.name!r}")


class AsyncFakeTransport:
    """As :class:`FakeTransport`, for an :class:`~detserve_client.AsyncClient`."""

    def __init__(self, card: Card, answer: Answer) -> None:
        self._fake = FakeTransport(card, answer)

    async def infer(self, request: DetectionRequest, timeout_s: float) -> Outputs:
        """Ask ``answer`` for each picture."""
        return self._fake.infer(request, timeout_s)

    async def model_config(self, model: str, timeout_s: float) -> dict[str, Any]:
        """A configuration that holds the card."""
        return self._fake.model_config(model, timeout_s)

    async def ready(self, model: str, timeout_s: float) -> bool:
        """Whether ``model`` is the card's name."""
        return self._fake.ready(model, timeout_s)

    async def server_ready(self, timeout_s: float) -> bool:
        """Always."""
        return True

    async def models(self, timeout_s: float) -> list[str]:
        """The card's name alone."""
        return self._fake.models(timeout_s)

    async def shared_regions(self, timeout_s: float) -> list[str]:
        """Refuse: frames travel as JPEG."""
        raise AccessDenied("the fake server does not read shared memory")

    async def register_region(self, name: str, key: str, size_bytes: int, timeout_s: float) -> None:
        """Refuse."""
        raise AccessDenied("the fake server does not read shared memory")

    async def unregister_region(self, name: str, timeout_s: float) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""
