"""A request's body as bytes, and what it says it is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.requests import Request

from detserve_rest.problems import Problem

#: A request takes a place from its first byte on.
TIMEOUT_S = 30.0


def media_type_of(request: Request) -> tuple[str, dict[str, str]]:
    """The body's type in lower case, "" where none is said, and what is said beside it.

    Raises:
        Problem: the body is compressed, or the header cannot be read.
    """
    packed = request.headers.get("content-encoding", "identity")
    if packed.lower() != "identity":
        raise Problem("unsupported-media-type", f"the body is compressed ({packed}); send it as it is")
    header = request.headers.get("content-type", "")
    if not header.isascii():
        raise Problem("bad-request", "the header content-type has characters beyond ASCII")
    if ";" not in header:
        return header.strip().lower(), {}
    from python_multipart.multipart import parse_options_header

    media_type, options = parse_options_header(header)
    return media_type.decode().lower(), {name.decode(): value.decode() for name, value in options.items()}


async def whole_body(request: Request, most_bytes: int, *, timeout_s: float = TIMEOUT_S) -> bytes:
    """All of the body, of ``most_bytes`` at most; what is too large by its header is not read.

    Raises:
        Problem: it is larger, or not there within ``timeout_s``.
        ClientDisconnect: the caller has gone.
    """
    said = request.headers.get("content-length", "")
    if said.isdigit() and int(said) > most_bytes:
        raise _too_large(most_bytes)
    chunks: list[bytes] = []
    size = 0
    with _within(timeout_s):
        async for chunk in request.stream():
            size += len(chunk)
            if size > most_bytes:
                raise _too_large(most_bytes)
            chunks.append(chunk)
    return b"".join(chunks)


@contextmanager
def _within(timeout_s: float) -> Iterator[None]:
    """As ``asyncio.timeout``, which Python 3.10 has not, with a :class:`Problem`."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    late = False

    def end() -> None:
        nonlocal late
        late = True
        if task is not None:
            task.cancel()

    timer = loop.call_later(timeout_s, end)
    try:
        yield
    except asyncio.CancelledError:
        if not late:
            raise
        detail = f"the body was not there within {timeout_s:g} s"
        raise Problem("too-slow", detail, {"connection": "close"}) from None
    finally:
        timer.cancel()


def not_empty(encoded: bytes) -> bytes:
    """The picture itself; raises :class:`Problem` where there is none."""
    if not encoded:
        raise Problem("bad-picture", "the picture is empty; expected a JPEG, PNG, WebP or BMP")
    return encoded


def _too_large(most_bytes: int) -> Problem:
    return Problem("too-large", f"the body is larger than the {most_bytes} bytes that are taken here")
