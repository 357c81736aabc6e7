"""Pictures fetched for a caller, from the internet alone: nothing that is near this machine is asked.

The address is checked that a connection is made to, not a name that could lead elsewhere a moment later. A
redirect makes a new connection, which is checked as well. Proxies are not used: they would connect for us.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias
from urllib.request import HTTPHandler, HTTPSHandler, Request

from detserve_client.pictures.download import download
from detserve_core.errors import SourceError

TIMEOUT_S = 10.0
Address: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"
Connect: TypeAlias = Callable[[str, int, Any], socket.socket]
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_public(address: Address) -> bool:
    """Whether the address is one of the internet's hosts, and none within another address."""
    if isinstance(address, ipaddress.IPv6Address) and (
        address.ipv4_mapped or address.sixtofour or address.teredo or address in _NAT64
    ):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def download_from_the_internet(
    url: str,
    most_bytes: int,
    *,
    timeout_s: float = TIMEOUT_S,
    allowed: Callable[[Address], bool] = is_public,
) -> bytes:
    """What an http or https URL leads to, within ``timeout_s`` in all.

    Raises:
        SourceError: an address on the way is not ``allowed``, or nothing can be had there.
    """
    with _connections(timeout_s, allowed) as connect:
        try:
            return download(url, timeout_s=timeout_s, most_bytes=most_bytes, handlers=_handlers(connect))
        except ValueError as error:
            raise SourceError(f"{url[:200]!r} is no address of a picture: {error}") from None


@contextmanager
def _connections(timeout_s: float, allowed: Callable[[Address], bool]) -> Iterator[Connect]:
    """Makes connections, which end after ``timeout_s``: each read by itself may be slow for ever."""
    made: list[socket.socket] = []
    late = threading.Event()

    def connect(host: str, port: int, connect_timeout_s: Any) -> socket.socket:
        connection = _connected(host, port, connect_timeout_s, allowed)
        made.append(connection.dup())  # TLS takes the socket itself away
        return connection

    def end() -> None:
        late.set()
        for connection in made:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(timeout_s, end)
    timer.daemon = True
    timer.start()
    try:
        yield connect
        if late.is_set():  # what came until then looks whole
            raise SourceError(f"no picture within {timeout_s:g} s")
    finally:
        timer.cancel()
        for connection in made:
            connection.close()


def _connected(host: str, port: int, timeout_s: Any, allowed: Callable[[Address], bool]) -> socket.socket:
    """A connection to an address of ``host``, all of which must be allowed."""
    places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for *_, place in places:
        if not allowed(ipaddress.ip_address(str(place[0]).partition("%")[0])):
            raise SourceError(f"{host} is not a public address; pictures are fetched from the internet alone")
    failure = OSError(f"{host} has no address")
    for family, kind, protocol, _, place in places:
        connecting = socket.socket(family, kind, protocol)
        try:
            connecting.settimeout(timeout_s)
            connecting.connect(place)
        except OSError as error:
            connecting.close()
            failure = error
        else:
            return connecting
    raise failure


def _handlers(connect: Connect) -> tuple[HTTPHandler, HTTPSHandler]:
    """What urllib opens addresses with."""
    context = ssl.create_default_context()

    class Plain(http.client.HTTPConnection):
        def connect(self) -> None:
            self.sock = connect(self.host, self.port, self.timeout)

    class Tls(http.client.HTTPSConnection):
        def connect(self) -> None:
            plain = connect(self.host, self.port, self.timeout)
            self.sock = context.wrap_socket(plain, server_hostname=self.host)

    class PlainHandler(HTTPHandler):
        def http_open(self, req: Request) -> http.client.HTTPResponse:
            return self.do_open(Plain, req)

    class TlsHandler(HTTPSHandler):
        def https_open(self, req: Request) -> http.client.HTTPResponse:
            return self.do_open(Tls, req, context=context)

    return PlainHandler(), TlsHandler()
