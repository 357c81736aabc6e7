"""As :mod:`detserve_client.transports.http_connection`, for an event loop."""

from __future__ import annotations

import asyncio
import ssl
from typing import cast

from detserve_client.transports.http_exchange import ENDED_EARLY, Answer, AnswerReader


class AsyncHttpConnection(asyncio.Protocol):
    """A connection that carries one HTTP exchange after another. :meth:`connected` makes one."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._reader: AnswerReader | None = None
        self._answered: asyncio.Future[tuple[Answer, bool]] | None = None

    @classmethod
    async def connected(
        cls, host: str, port: int, tls: ssl.SSLContext | None, timeout_s: float
    ) -> AsyncHttpConnection:
        """A connection to ``host``, an address or a name.

        Raises:
            OSError: there is no way to it; ssl.SSLError among them.
            asyncio.TimeoutError: ``timeout_s`` has passed.
        """
        connecting = asyncio.get_running_loop().create_connection(cls, host, port, ssl=tls)
        return (await asyncio.wait_for(connecting, timeout_s))[1]

    async def exchange(self, request: bytes, timeout_s: float) -> tuple[Answer, bool]:
        """Send a request; its answer, and whether the connection can be used again.

        Raises:
            OSError: the connection was lost.
            TimeoutError: ``timeout_s`` has passed.
            httptools.HttpParserError: what came is no HTTP answer.
        """
        if self._transport is None:
            raise ConnectionResetError(ENDED_EARLY)
        loop = asyncio.get_running_loop()
        self._reader, self._answered = AnswerReader(), loop.create_future()
        too_late = loop.call_later(timeout_s, self._fail, TimeoutError("timed out"))
        try:
            self._transport.write(request)
            return await self._answered
        finally:
            too_late.cancel()
            self._reader = self._answered = None

    def idle(self) -> bool:
        """Whether nothing has happened to it since its last answer; a server may have closed it."""
        return self._transport is not None and not self._transport.is_closing()

    def close(self) -> None:
        """Close it, without waiting for what is not sent yet."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """For the event loop."""
        self._transport = cast(asyncio.Transport, transport)

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
