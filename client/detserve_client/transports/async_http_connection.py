"""As :mod:`detserve_client.transports.http_connection`, for an event loop."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable
from contextlib import suppress
from typing import TypeVar, cast

from detserve_client.transports.http_exchange import ENDED_EARLY, Answer, AnswerReader, name_for_tls

_Result = TypeVar("_Result")


class AsyncHttpConnection(asyncio.Protocol):
    """To ``host``, an address or a name; its first exchange connects it, and its event loop is that one's."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        self._host, self._port, self._tls = host, port, tls
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._was_connected = False
        self._reader: AnswerReader | None = None
        self._answered: asyncio.Future[tuple[Answer, bool]] | None = None

    async def exchange(self, request: bytes, deadline_s: float) -> tuple[Answer, bool]:
        """Send a request; its answer, and whether the connection can be used again.

        ``deadline_s`` is a time of ``time.monotonic``.

        Raises:
            OSError: there is no way to the host, or the connection was lost; ssl.SSLError among them, and
                TimeoutError without a number when ``deadline_s`` has passed.
            httptools.HttpParserError: the answer is not HTTP.
        """
        if not self._was_connected:
            await self._connect(deadline_s)
        if self._transport is None:
            raise ConnectionResetError(ENDED_EARLY)
        self._reader, self._answered = AnswerReader(), self._loop.create_future()
        left_s = deadline_s - time.monotonic()
        too_late = self._loop.call_later(left_s, self._fail, TimeoutError("timed out"))
        try:
            self._transport.write(request)
            return await self._answered
        finally:
            too_late.cancel()
            self._reader = self._answered = None

    def idle(self) -> bool:
        """Whether nothing has come since its last answer, and it belongs to the event loop that runs."""
        if self._loop is not asyncio.get_running_loop():
            return False
        return self._transport is not None and not self._transport.is_closing()

    def close(self) -> None:
        """Close it, without waiting for what is not sent yet."""
        if self._transport is not None:
            with suppress(RuntimeError):  # its event loop is closed
                self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """For the event loop."""
        self._transport = cast(asyncio.Transport, transport)
        self._was_connected = True

    def data_received(self, data: bytes) -> None:
        """For the event loop."""
        reader, transport = self._reader, self._transport
        if reader is None or transport is None or reader.whole:
            self.close()  # nobody asked for it
            return
        try:
            if reader.take(data):
                all_sent = transport.get_write_buffer_size() == 0
                self._succeed(reader, reusable=reader.reusable and all_sent)
        except Exception as error:
            self._fail(error)

    def eof_received(self) -> None:
        """For the event loop, which closes the connection then."""
        if self._reader is not None and self._reader.end():
            self._succeed(self._reader, reusable=False)

    def connection_lost(self, error: Exception | None) -> None:
        """For the event loop."""
        self._transport = None
        self._fail(error or ConnectionResetError(ENDED_EARLY))

    def _succeed(self, reader: AnswerReader, reusable: bool) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_result((reader.answer(), reusable))

    def _fail(self, error: Exception) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error)

    async def _connect(self, deadline_s: float) -> None:
        """Try the host's addresses in turn; each may take its share of the time that is left."""
        looked_up = self._loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        addresses = await _within(deadline_s - time.monotonic(), looked_up)
        failed: OSError = TimeoutError("timed out")
        for number, (family, kind, protocol, _, address) in enumerate(addresses):
            try:
                connecting = socket.socket(family, kind, protocol)
            except OSError as error:  # no IPv6 here, say
                failed = error
                continue
            try:
                connecting.setblocking(False)
                share_s = (deadline_s - time.monotonic()) / (len(addresses) - number)
                await _within(share_s, self._loop.sock_connect(connecting, address))
                break
            except OSError as error:
                connecting.close()
                failed = error
            except BaseException:
                connecting.close()
                raise
        else:
            raise failed
        name = name_for_tls(self._host) if self._tls else None
        # From here on the event loop closes the socket.
        making = self._loop.create_connection(
            lambda: self, sock=connecting, ssl=self._tls, server_hostname=name
        )
        await _within(deadline_s - time.monotonic(), making)


async def _within(timeout_s: float, awaitable: Awaitable[_Result]) -> _Result:
    """As ``asyncio.wait_for``, which before Python 3.12 loses a cancellation that comes with the result."""
    task = asyncio.ensure_future(awaitable)
    try:
        await asyncio.wait({task}, timeout=max(0, timeout_s))
    finally:
        task.cancel()  # does nothing to one that is done
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    if not task.done():
        raise TimeoutError("timed out")
    return task.result()
