"""urllib3 connections that another thread can end in the middle of a request."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Any

from detserve_client.cancellation import Cancellation
from detserve_client.endpoint import Endpoint

_CONNECTIONS = 64

_calls = threading.local()


class CancellableCall:
    """While the block runs, ``cancellation`` ends the request that this thread makes in it."""

    def __init__(self, cancellation: Cancellation) -> None:
        self._cancellation = cancellation
        self._hook = cancellation.on_cancel(self._end)
        self.connection: Any = None

    def __enter__(self) -> None:
        """Begin."""
        self._cancellation.check()
        _calls.current = self
        self._hook.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End; an error of a cancelled request becomes ``CancelledError``."""
        _calls.current = None
        self._hook.__exit__(None, None, None)
        if error is not None:
            self._cancellation.check()

    def carried_by(self, connection: Any) -> None:
        """Say which connection has the request, before and after it connects."""
        self.connection = connection
        self._cancellation.check()

    def _end(self) -> None:
        sock = getattr(self.connection, "sock", None)
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def cancellable_pool(endpoint: Endpoint) -> Any:
    """A urllib3 pool to ``endpoint`` that :class:`CancellableCall` works with."""
    from urllib3 import HTTPConnectionPool, HTTPSConnectionPool

    base: Any = HTTPSConnectionPool if endpoint.tls else HTTPConnectionPool

    class _Connection(base.ConnectionCls):  # type: ignore[misc]
        def connect(self) -> None:
            super().connect()
            self._tell()

        def request(self, *values: Any, **named: Any) -> None:
            self._tell()
            super().request(*values, **named)

        def _tell(self) -> None:
            call = getattr(_calls, "current", None)
            if call is not None:
                call.carried_by(self)

    tls = {"ssl_context": endpoint.security.ssl_context()} if endpoint.tls else {}
    pool = base(endpoint.host, endpoint.port, maxsize=_CONNECTIONS, **tls)
    pool.ConnectionCls = _Connection
    return pool
