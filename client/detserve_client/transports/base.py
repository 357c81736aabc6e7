"""What a transport has to do."""

from __future__ import annotations

from typing import Any, Protocol

from detserve_client.wire import DetectionRequest, Outputs


class Transport(Protocol):
    """The way to a server. Every method may be called from several threads at once.

    Each call takes at most ``timeout_s`` seconds and makes one attempt: the client does the retries.
    Every failure is an :class:`~detserve_client.errors.InferenceError`.
    """

    def infer(self, request: DetectionRequest, timeout_s: float) -> Outputs:
        """Send one picture and return the contract's output tensors, batch dimension included."""
        ...

    def model_config(self, model: str, timeout_s: float) -> dict[str, Any]:
        """The model's configuration (config.pbtxt as JSON)."""
        ...

    def ready(self, model: str, timeout_s: float) -> bool:
        """Whether the model is loaded and takes requests."""
        ...

    def close(self) -> None:
        """Close the connections. A second call does nothing."""
        ...
