"""The ways to a server: gRPC, HTTP, and a fake one for tests."""

from __future__ import annotations

from detserve_client.endpoint import Endpoint
from detserve_client.transports.base import Transport
from detserve_client.transports.fake import FakeTransport
from detserve_client.transports.grpc import GrpcTransport
from detserve_client.transports.http import HttpTransport

__all__ = ["FakeTransport", "GrpcTransport", "HttpTransport", "Transport", "transport_to"]


def transport_to(endpoint: Endpoint) -> Transport:
    """The transport that speaks the endpoint's protocol. Nothing is sent yet."""
    return GrpcTransport(endpoint) if endpoint.protocol == "grpc" else HttpTransport(endpoint)
