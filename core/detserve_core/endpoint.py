"""Where a server listens, as one value."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import urlsplit

from detserve_core.errors import EndpointError
from detserve_core.security import UNSECURED, Security

_SCHEMES: dict[str, tuple[Literal["grpc", "http"], bool, int]] = {
    "grpc": ("grpc", False, 8001),
    "grpcs": ("grpc", True, 8001),
    "http": ("http", False, 8000),
    "https": ("http", True, 443),
}


@dataclass(frozen=True)
class Endpoint:
    """Where a server listens. ``host`` is a name, an IPv4 address or an IPv6 address without brackets."""

    protocol: Literal["grpc", "http"]
    host: str
    port: int
    tls: bool = False
    security: Security = UNSECURED

    @classmethod
    def parse(cls, url: str) -> Endpoint:
        """Read ``grpc://HOST[:PORT]`` or ``http://HOST[:PORT]``; ``grpcs`` and ``https`` mean TLS.

        Without a port it is Triton's: 8001 for gRPC, 8000 for HTTP; 443 for HTTPS. ``HOST:PORT`` alone is
        gRPC, or HTTP where the port is 8000, on which Triton listens for it.

        Raises:
            EndpointError: ``url`` is something else.
        """
        if not isinstance(url, str):
            raise _mistake(url, "text such as grpc://HOST:PORT")
        given = url
        if "://" not in url and url:
            url = f"{'http' if url.rpartition(':')[2] == '8000' else 'grpc'}://{url}"
        scheme, _, _ = url.partition("://")
        if scheme.lower() not in _SCHEMES:
            raise _mistake(given, "grpc://HOST:PORT or http://HOST:PORT")
        protocol, tls, default_port = _SCHEMES[scheme.lower()]
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise _mistake(given, f"a host and a port of 1 to 65535 ({error})") from None
        if not host or any(character.isspace() for character in host) or not _can_be_looked_up(host):
            raise _mistake(given, f"a host name after {scheme}://")
        if port == 0:
            raise _mistake(given, "a port of 1 to 65535")
        if parts.username is not None or parts.path not in ("", "/") or parts.query or parts.fragment:
            raise _mistake(given, f"nothing but {scheme}://HOST:PORT")
        return cls(protocol, host, default_port if port is None else port, tls)

    def secured(self, security: Security) -> Endpoint:
        """The same place, with what the client shows there.

        Raises:
            EndpointError: a key or certificates would go over a connection without TLS.
        """
        if not self.tls and security != UNSECURED:
            raise EndpointError(
                f"an API key and certificates need TLS, which {self} has not; use "
                f"{self.protocol}s://{self.address}"
            )
        return replace(self, security=security)

    @property
    def address(self) -> str:
        """``HOST:PORT``, an IPv6 host in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        """The URL, with its port."""
        return f"{self.protocol}{'s' if self.tls else ''}://{self.address}"


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine by its very name or address."""
    try:
        address = ipaddress.ip_address(host)
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback  # ::ffff:127.0.0.1 too
    except ValueError:
        name = host.rstrip(".").lower()
        return name == "localhost" or name.endswith(".localhost")


def _can_be_looked_up(host: str) -> bool:
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def _mistake(url: object, expected: str) -> EndpointError:
    return EndpointError(f"cannot read the server address {url!r}; expected {expected}")
