"""A client of a server that may be a gateway, or a Triton that answers its gateway only."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from detserve_client.client import Client
from detserve_core.endpoint import Endpoint
from detserve_core.security import Security

#: The secret of detserve gateway render, as in its triton.env.
SECRET = "DETSERVE_GATEWAY_SECRET"  # noqa: S105
_HTTP_HEADER = "detserve-gateway"


@dataclass(frozen=True)
class _AsTheGateway(Security):
    secret: str = ""

    def headers(self) -> dict[str, str]:
        return {_HTTP_HEADER: self.secret}

    def metadata(self, model: str) -> list[tuple[str, str]]:
        return [(f"triton-grpc-protocol-{_HTTP_HEADER}", self.secret)]


def connected(url: str, model: str) -> Client:
    """A client with what the environment holds: a key for a gateway (TLS), the secret for a Triton.

    Raises :class:`~detserve_core.errors.EndpointError` and
    :class:`~detserve_core.errors.SecurityError`.
    """
    from detserve_client.transports import transport_to

    endpoint, secret = Endpoint.parse(url), os.environ.get(SECRET)
    if endpoint.tls:
        return Client(url, model, security=Security.from_environment())
    if not secret:
        return Client(url, model)
    shown = replace(endpoint, security=_AsTheGateway(secret=secret))
    return Client(url, model, transport=transport_to(shown))
