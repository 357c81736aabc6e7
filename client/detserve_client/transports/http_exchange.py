"""One exchange of HTTP/1.1 (RFC 9112) as bytes: the request to send, the answer out of what arrives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: The text of the error for an answer that is not whole.
ENDED_EARLY = "the connection was closed before the answer was whole"


@dataclass(frozen=True)
class Answer:
    """What a server answers; ``headers`` by their names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def request_bytes(method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """A whole request. ``path`` is quoted; ``headers`` have the host and no lengths."""
    lines = [f"{method} {path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body or method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    return b"".join(("\r\n".join(lines).encode("latin-1"), b"\r\n\r\n", body))


def name_for_tls(host: str) -> str:
    """The name that the certificate of ``host`` is for: without the root's dot or an IPv6 zone."""
    return host.rstrip(".").partition("%")[0]


class AnswerReader:
    """Takes bytes as they arrive until the answer is whole; parsed by llhttp, the parser of Node.js.

    Interim answers (status 1xx) are passed over. What follows the answer is not looked at, and ``reusable``
    is False then.
    """

    def __init__(self) -> None:
        import httptools

        self._upgrade, self._mistake = httptools.HttpParserUpgrade, httptools.HttpParserError
        self._parser: Any = httptools.HttpResponseParser(self)
        self._status = 0
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        #: Whether there is a status line and the headers after it.
        self.begun = False
        self.whole = False
        #: Whether the connection can carry another request afterwards.
        self.reusable = False

    def take(self, data: bytes) -> bool:
        """Take some bytes; whether the answer is whole.

        Raises:
            httptools.HttpParserError: the bytes are no HTTP answer.
        """
        try:
            self._parser.feed_data(data)
        except self._upgrade:
            raise self._mistake("an upgrade that nobody asked for") from None
        except self._mistake:
            if not self.whole:
                raise
            self.reusable = False
        return self.whole

    def end(self) -> bool:
        """The peer sends no more; whether that makes the answer whole, as it does one without a length."""
        if self.begun and not self._headers.keys() & {"content-length", "transfer-encoding"}:
            self.whole = True
        return self.whole

    def answer(self) -> Answer:
        """The answer, once it is whole. The reader is of no use after that."""
        self._parser = None  # which holds this reader: the answer must not wait for the garbage collector
        return Answer(self._status, self._headers, b"".join(self._body))

    def on_message_begin(self) -> None:
        """For the parser."""
        self.reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """For the parser."""
        if not self.whole:
            self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """For the parser."""
        if not self.whole:
            self._status = self._parser.get_status_code()
            self.begun = self._status >= 200

    def on_body(self, body: bytes) -> None:
        """For the parser."""
        if not self.whole:
            self._body.append(body)

    def on_message_complete(self) -> None:
        """For the parser."""
        if self.begun and not self.whole:
            self.whole = True
            self.reusable = self._parser.should_keep_alive()
        elif not self.begun:
            self._headers.clear()
