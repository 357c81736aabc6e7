"""What a transport has to do."""

from __future__ import annotations

from typing import Any, Protocol

from detserve_client.engine.cancellation import Cancellation
from detserve_client.engine.wire import DetectionRequest, Outputs


class Transport(Protocol):
    """The way to a server. Every method may be called from several threads at once.

    Each call takes at most ``timeout_s`` seconds and makes one attempt: the client does the retries.
    Every failure is an :class:`~detserve_core.errors.InferenceError`.
    """

    def infer(
        self, request: DetectionRequest, timeout_s: float, cancellation: Cancellation | None = None
    ) -> Outputs:
        """Send one request and return the contract's output tensors, batch dimension included.

        When ``cancellation`` is said, it ends at once, with any exception.
        """
        ...

    def model_config(self, model: str, timeout_s: float) -> dict[str, Any]:
        """The model's configuration (config.pbtxt as JSON)."""
        ...

    def ready(self, model: str, timeout_s: float) -> bool:
        """Whether the model is loaded and takes requests."""
        ...

    def server_ready(self, timeout_s: float) -> bool:
        """Whether the server as a whole is ready: not while it starts or goes down."""
        ...

    def models(self, timeout_s: float) -> list[str]:
        """The names of all models that are ready, steps of pipelines included."""
        ...

    def shared_regions(self, timeout_s: float) -> list[str]:
        """The names of the regions of shared memory that the server has mapped."""
        ...

    def register_region(self, name: str, key: str, size_bytes: int, timeout_s: float) -> None:
        """Have the server map the region that ``shm_open`` finds under ``key``."""
        ...

    def unregister_region(self, name: str, timeout_s: float) -> None:
        """Have the server let go of a region; one that it does not know is not an error."""
        ...

    def close(self) -> None:
        """Close the connections. A second call does nothing."""
        ...


class AsyncTransport(Protocol):
    """As :class:`Transport`, for one event loop. A call whose task is cancelled ends at once."""

    async def infer(self, request: DetectionRequest, timeout_s: float) -> Outputs:
        """Send one request and return the contract's output tensors, batch dimension included."""
        ...

    async def model_config(self, model: str, timeout_s: float) -> dict[str, Any]:
        """The model's configuration (config.pbtxt as JSON)."""
        ...

    async def ready(self, model: str, timeout_s: float) -> bool:
        """Whether the model is loaded and takes requests."""
        ...

    async def server_ready(self, timeout_s: float) -> bool:
        """Whether the server as a whole is ready: not while it starts or goes down."""
        ...

    async def models(self, timeout_s: float) -> list[str]:
        """The names of all models that are ready, steps of pipelines included."""
        ...

    async def shared_regions(self, timeout_s: float) -> list[str]:
        """The names of the regions of shared memory that the server has mapped."""
        ...

    async def register_region(self, name: str, key: str, size_bytes: int, timeout_s: float) -> None:
        """Have the server map the region that ``shm_open`` finds under ``key``."""
        ...

    async def unregister_region(self, name: str, timeout_s: float) -> None:
        """Have the server let go of a region; one that it does not know is not an error."""
        ...

    async def close(self) -> None:
        """Close the connections. A second call does nothing."""
        ...
