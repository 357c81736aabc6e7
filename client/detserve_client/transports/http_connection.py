"""A connection that carries one HTTP exchange after another, and that another thread can end."""

from __future__ import annotations

import socket
import ssl
import time
from contextlib import suppress

from detserve_client.transports.http_exchange import ENDED_EARLY, Answer, AnswerReader, name_for_tls

_AT_ONCE_BYTES = 2**16


class HttpConnection:
    """To ``host``, an address or a name; its first exchange connects it.

    urllib3 and http.client take 0.7 ms of CPU time for a picture of 150 kB, this takes 0.2.
    """

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        self._host, self._port, self._tls = host, port, tls
        self._socket: socket.socket | None = None
        self._ended = False

    def exchange(self, request: bytes, deadline_s: float) -> tuple[Answer, bool]:
        """Send a request; its answer, and whether the connection can be used again.

        ``deadline_s`` is a time of ``time.monotonic``; looking a name up is not interrupted by it.

        Raises:
            OSError: there is no way to the host, or the connection was lost; ssl.SSLError among them, and
                TimeoutError without a number when ``deadline_s`` has passed.
            httptools.HttpParserError: the answer is not HTTP.
        """
        connected = self._socket or self._connected(deadline_s)
        reader = AnswerReader()
        refused = None
        try:
            connected.settimeout(_left_s(deadline_s))
            connected.sendall(request)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError) as error:
            refused = error  # a server may answer, 413 say, and close before it has taken all
        try:
            while not reader.whole:
                connected.settimeout(_left_s(deadline_s))
                received = connected.recv(_AT_ONCE_BYTES)
                if received:
                    reader.take(received)
                elif not reader.end():
                    raise ConnectionResetError(ENDED_EARLY)
        except ConnectionResetError as error:
            raise refused or error from None
        return reader.answer(), reader.reusable and refused is None

    def idle(self) -> bool:
        """Whether nothing has come since its last answer; a server may have closed it."""
        if self._socket is None:
            return False
        try:
            self._socket.setblocking(False)
            socket.socket.recv(self._socket, 1, socket.MSG_PEEK)  # beneath TLS, which knows no peeking
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def end(self) -> None:
        """Make an exchange that goes on in another thread fail."""
        self._ended = True
        if self._socket is not None:
            with suppress(OSError):  # not SSLSocket's own, which would send what follows without TLS
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it."""
        if self._socket is not None:
            self._socket.close()

    def _connected(self, deadline_s: float) -> socket.socket:
        """Try the host's addresses in turn; each may take its share of the time that is left."""
        addresses = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        failed: OSError = TimeoutError("timed out")
        for number, (family, kind, protocol, _, address) in enumerate(addresses):
            try:
                self._socket = connecting = socket.socket(family, kind, protocol)
                self._check_not_ended()
                connecting.settimeout(_left_s(deadline_s) / (len(addresses) - number))
                connecting.connect(address)
                connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                break
            except OSError as error:
                self.close()
                failed = error
        else:
            raise failed
        if self._tls is not None:
            name = name_for_tls(self._host)
            secured = self._tls.wrap_socket(connecting, server_hostname=name, do_handshake_on_connect=False)
            self._socket = connecting = secured
        self._check_not_ended()
        if isinstance(connecting, ssl.SSLSocket):
            connecting.settimeout(_left_s(deadline_s))
            connecting.do_handshake()
        return connecting

    def _check_not_ended(self) -> None:
        if self._ended:
            raise ConnectionAbortedError("ended by another thread")


def _left_s(deadline_s: float) -> float:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("timed out")
    return left_s
