"""What the two clients have in common."""

from __future__ import annotations

import time

from detserve_client.engine.flows import Flows, Limits
from detserve_client.engine.wire import request_parameters
from detserve_core.endpoint import Endpoint
from detserve_core.security import Security

DEFAULT_URL = "grpc://localhost:8001"
DEFAULT_TIMEOUT_S = 30.0
DEFAULT_WINDOW = 8


class BaseClient:
    """Where the server is, which model is meant, and the flows to it. Does no I/O."""

    def __init__(self, url: str, model: str | None, timeout_s: float, security: Security) -> None:
        self.endpoint = Endpoint.parse(url).secured(security)
        self.timeout_s = _positive(timeout_s)
        self._flows = Flows(self.endpoint, model or "", patience_s=timeout_s)

    @property
    def model(self) -> str:
        """The detector's name; "" where none was given and the server has not been asked yet."""
        return self._flows.model

    def __repr__(self) -> str:
        """Where the server is and which detector is meant."""
        return f"{type(self).__name__}({str(self.endpoint)!r}, {self.model or None!r})"

    def _limits(
        self,
        score_threshold: float | None,
        iou_threshold: float | None,
        max_detections: int | None,
        timeout_s: float | None,
    ) -> Limits:
        parameters = request_parameters(score_threshold, iou_threshold, max_detections)
        return Limits(parameters, self.timeout_s if timeout_s is None else _positive(timeout_s))

    def _deadline_s(self) -> float:
        return time.monotonic() + self.timeout_s


def checked_window(window: int) -> int:
    """The window, 1 or more; anything else is a mistake in the caller's code."""
    if window < 1:
        raise ValueError(f"window is {window}; expected 1 or more")
    return window


def _positive(timeout_s: float) -> float:
    if not timeout_s > 0:
        raise ValueError(f"timeout_s is {timeout_s}; expected more than 0 seconds")
    return timeout_s
