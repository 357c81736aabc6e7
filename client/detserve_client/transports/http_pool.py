"""The connections to one HTTP server, of either client, that wait for their next request."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

from detserve_core.endpoint import Endpoint

_MOST_IDLE = 64


class _Connection(Protocol):
    def idle(self) -> bool: ...

    def close(self) -> None: ...


_Kind = TypeVar("_Kind", bound=_Connection)


class HttpPool(Generic[_Kind]):
    """As many connections as there are requests in flight; ``make`` is called with host, port and TLS.

    Any thread may use it.
    """

    def __init__(self, endpoint: Endpoint, make: Callable[[str, int, ssl.SSLContext | None], _Kind]) -> None:
        self._endpoint, self._make = endpoint, make
        self._tls = endpoint.security.ssl_context() if endpoint.tls else None
        self._idle: list[_Kind] = []
        self._pid = os.getpid()
        self._closed = False

    def take(self) -> _Kind:
        """A connection for one request, which is given back or closed after it.

        Raises:
            ValueError: the pool is closed.
        """
        if self._closed:
            raise ValueError("the client is closed")
        if self._pid != os.getpid():  # a fork's connections are its parent's
            self._idle, self._pid = [], os.getpid()
        while True:
            try:
                connection = self._idle.pop()  # the last one used: the others may be closed by the server
            except IndexError:
                return self._make(self._endpoint.host, self._endpoint.port, self._tls)
            if connection.idle():
                return connection
            connection.close()

    def give_back(self, connection: _Kind, reusable: bool) -> None:
        """Keep a connection for the next request, or close it when it cannot carry one."""
        if not reusable or self._closed or len(self._idle) >= _MOST_IDLE:
            connection.close()
            return
        self._idle.append(connection)
        if self._closed:  # meanwhile
            self.close()

    def close(self) -> None:
        """Close what waits; a connection with a request in flight is closed when it is given back."""
        self._closed = True
        with suppress(IndexError):  # two threads may close at once
            while True:
                self._idle.pop().close()
