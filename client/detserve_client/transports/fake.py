"""A server in memory, for the tests of code that uses a client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from detserve_client.card import Card
from detserve_client.detections import Detections
from detserve_client.errors import ModelNotFound
from detserve_client.wire import DetectionRequest, Outputs, config_with, padded_outputs


class FakeTransport:
    """Answers with what ``answer`` returns, or fails with what it raises; no server is needed.

    Usage::

        transport = FakeTransport(card, lambda request: Detections.empty(card.labels))
        client = DetectionClient("grpc://fake", card.name, transport=transport)

    Args:
        card: the served detector; its ``name`` is the model's.
        answer: called for each request. Detections are sorted by score and cut to the card's
            ``max_detections`` as a server does; output tensors go through unchanged.
    """

    def __init__(self, card: Card, answer: Callable[[DetectionRequest], Detections | Outputs]) -> None:
        self.card = card
        self._answer = answer

    def infer(self, request: DetectionRequest, timeout_s: float) -> Outputs:
        """Ask ``answer``."""
        self._require(request.model)
        answer = self._answer(request)
        if isinstance(answer, Detections):
            return padded_outputs(answer, self.card.thresholds.max_detections)
        return answer

    def model_config(self, model: str, timeout_s: float) -> dict[str, Any]:
        """A configuration that holds the card."""
        self._require(model)
        return config_with(self.card)

    def ready(self, model: str, timeout_s: float) -> bool:
        """Whether ``model`` is the card's name."""
        return model == self.card.name

    def close(self) -> None:
        """Do nothing."""

    def _require(self, model: str) -> None:
        if model != self.card.name:
            raise ModelNotFound(f"the fake server has no model {model!r}; it has {self.card.name!r}")
