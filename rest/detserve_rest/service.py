"""What an operator chooses, and what the routes share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from starlette.requests import HTTPConnection

from detserve_core.endpoint import Endpoint
from detserve_core.machine.cores import cores
from detserve_rest.detectors import Detectors

#: As the gateway's: a larger picture is refused before it is read.
MOST_BYTES = 16 << 20


@dataclass(frozen=True)
class Settings:
    """Where the server is and what callers may do.

    Attributes:
        endpoint: of Triton, or of a gateway.
        allow_urls: whether a caller may name a picture by its address on the internet.
        deepstack_model: the detector of ``/v1/vision/detection``; None is the only one that a caller may use.
        secret: what the gateway before this service shows in each request; None is no gateway.
        most_bytes: of a request's body.
    """

    endpoint: Endpoint
    allow_urls: bool = False
    deepstack_model: str | None = None
    secret: str | None = None
    most_bytes: int = MOST_BYTES


def _one_each_core() -> asyncio.Semaphore:
    return asyncio.Semaphore(cores())


@dataclass(frozen=True)
class Service:
    """What is chosen, the detectors, and how many pictures are drawn at a time: each is held twice."""

    settings: Settings
    detectors: Detectors
    drawing: asyncio.Semaphore = field(default_factory=_one_each_core)


def service_of(connection: HTTPConnection) -> Service:
    """What the application was started with."""
    service: Service = connection.scope["app"]
    return service
