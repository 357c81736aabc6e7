"""A client of a server that may be a gateway, or a Triton that answers its gateway only."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from detserve_client.client import Client
from detserve_core.contract import GATEWAY_SECRET
from detserve_core.endpoint import Endpoint
from detserve_core.security import AsTheGateway, Security


def endpoint_of(
    url: str, *, api_key_file: Path | None = None, ca: Path | None = None, certificate: Path | None = None
) -> Endpoint:
    """The endpoint with what is given, else what the environment holds: for a gateway, over TLS, or a Triton.

    Raises :class:`~detserve_core.errors.EndpointError` and
    :class:`~detserve_core.errors.SecurityError`.
    """
    endpoint, secret = Endpoint.parse(url), os.environ.get(GATEWAY_SECRET)
    if endpoint.tls or (api_key_file, ca, certificate) != (None, None, None):
        shown = Security.from_environment(api_key_file=api_key_file, ca=ca, certificate=certificate)
        return endpoint.secured(shown)
    return replace(endpoint, security=AsTheGateway(secret=secret)) if secret else endpoint


def client_of(endpoint: Endpoint, model: str) -> Client:
    """A client that shows what the endpoint says."""
    from detserve_client.transports import transport_to

    return Client(str(endpoint), model, transport=transport_to(endpoint))
