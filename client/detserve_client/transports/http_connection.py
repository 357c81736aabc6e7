"""A connection that carries one HTTP exchange after another, and that another thread can end."""

from __future__ import annotations

import select
import socket
import ssl
import time
from contextlib import suppress

from detserve_client.transports.http_exchange import ENDED_EARLY, Answer, AnswerReader

_AT_ONCE_BYTES = 2**16


class HttpConnection:
    """Connected to ``host``, an address or a name, until :meth:`close`.

    urllib3 and http.client take 0.7 ms of CPU time for a picture of 150 kB, this takes 0.2.

    Raises:
        OSError: there is no way to it; TimeoutError and ssl.SSLError among them.
    """

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None, deadline_s: float) -> None:
        """``deadline_s`` is a time of ``time.monotonic``."""
        self._socket = socket.create_connection((host, port), _left_s(deadline_s))
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is not None:
                self._socket.settimeout(_left_s(deadline_s))
                self._socket = tls.wrap_socket(self._socket, server_hostname=host)
        except BaseException:
            self._socket.close()
            raise

    def exchange(self, request: bytes, deadline_s: float) -> tuple[Answer, bool]:
        """Send a request; its answer, and whether the connection can be used again.

        Raises:
            OSError: the connection was lost, or ``deadline_s`` has passed.
            httptools.HttpParserError: what came is no HTTP answer.
        """
        reader = AnswerReader()
        refused = None
        try:
            self._socket.settimeout(_left_s(deadline_s))
            self._socket.sendall(request)
        except (BrokenPipeError, ConnectionResetError) as error:
            refused = error  # a server may answer, 413 say, and close before it has taken all
        try:
            while not reader.whole:
                self._socket.settimeout(_left_s(deadline_s))
                received = self._socket.recv(_AT_ONCE_BYTES)
                if received:
                    reader.take(received)
                elif not reader.end():
                    raise ConnectionResetError(ENDED_EARLY)
        except ConnectionResetError as error:
            raise refused or error from None
        return reader.answer(), reader.reusable and refused is None

    def idle(self) -> bool:
        """Whether nothing has happened to it since its last answer; a server may have closed it."""
        try:
            poll = select.poll()
            poll.register(self._socket, select.POLLIN)
            return not poll.poll(0)
        except (OSError, ValueError):
            return False

    def end(self) -> None:
        """Make an exchange that goes on in another thread fail."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it."""
        self._socket.close()


def _left_s(deadline_s: float) -> float:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("timed out")
    return left_s
