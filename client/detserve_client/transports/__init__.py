"""The ways to a server: gRPC, HTTP, and a fake one for tests; each for threads and for an event loop."""

from __future__ import annotations

from detserve_client.transports.async_grpc import AsyncGrpcTransport
from detserve_client.transports.async_http import AsyncHttpTransport
from detserve_client.transports.base import AsyncTransport, Transport
from detserve_client.transports.fake import AsyncFakeTransport, FakeTransport
from detserve_client.transports.grpc import GrpcTransport
from detserve_client.transports.http import HttpTransport
from detserve_core.endpoint import Endpoint

__all__ = [
    "AsyncFakeTransport",
    "AsyncGrpcTransport",
    "AsyncHttpTransport",
    "AsyncTransport",
    "FakeTransport",
    "GrpcTransport",
    "HttpTransport",
    "Transport",
    "async_transport_to",
    "transport_to",
]


def transport_to(endpoint: Endpoint) -> Transport:
    """The transport that speaks the endpoint's protocol. Nothing is sent yet."""
    return GrpcTransport(endpoint) if endpoint.protocol == "grpc" else HttpTransport(endpoint)


def async_transport_to(endpoint: Endpoint) -> AsyncTransport:
    """As :func:`transport_to`, for an event loop."""
    return AsyncGrpcTransport(endpoint) if endpoint.protocol == "grpc" else AsyncHttpTransport(endpoint)
