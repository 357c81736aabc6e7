"""What a flow can ask for; see :mod:`detserve_client.engine.flows`."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NamedTuple, TypeAlias, TypeVar

from detserve_client.engine.wire import DetectionRequest

_Result = TypeVar("_Result")


class Infer(NamedTuple):
    """Have the transport send a request; the answer is its output tensors."""

    request: DetectionRequest
    timeout_s: float


class FetchConfig(NamedTuple):
    """Have the transport ask for the model's configuration."""

    model: str
    timeout_s: float


class ListModels(NamedTuple):
    """Have the transport ask for the names of all models that are ready."""

    timeout_s: float


class AskReady(NamedTuple):
    """Have the transport ask whether the server as a whole is ready."""

    timeout_s: float


class ListRegions(NamedTuple):
    """Have the transport ask for the names of the registered regions of shared memory."""

    timeout_s: float


class RegisterRegion(NamedTuple):
    """Have the transport register a region."""

    name: str
    key: str
    size_bytes: int
    timeout_s: float


class UnregisterRegion(NamedTuple):
    """Have the transport unregister a region."""

    name: str
    timeout_s: float


class Pause(NamedTuple):
    """Wait."""

    seconds: float


class Work(NamedTuple):
    """Call a function that reads a file or computes for milliseconds; the answer is what it returns."""

    function: Callable[[], Any]


Step: TypeAlias = (
    "Infer | FetchConfig | ListModels | AskReady | ListRegions | RegisterRegion | UnregisterRegion "
    "| Pause | Work"
)
Flow: TypeAlias = Generator[Step, Any, _Result]
