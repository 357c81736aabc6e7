"""A request's body as bytes, and what it says it is."""

from __future__ import annotations

from starlette.requests import Request

from detserve_rest.problems import Problem


def media_type_of(request: Request) -> tuple[str, dict[str, str]]:
    """The body's type in lower case, "" where none is said, and what is said beside it.

    Raises:
        Problem: the body is compressed, or the header cannot be read.
    """
    from python_multipart.multipart import parse_options_header

    packed = request.headers.get("content-encoding", "identity")
    if packed.lower() != "identity":
        raise Problem("unsupported-media-type", f"the body is compressed ({packed}); send it as it is")
    header = request.headers.get("content-type", "")
    if not header.isascii():
        raise Problem("bad-request", "the header content-type has characters beyond ASCII")
    if ";" not in header:
        return header.strip().lower(), {}
    media_type, options = parse_options_header(header)
    return media_type.decode().lower(), {name.decode(): value.decode() for name, value in options.items()}


async def whole_body(request: Request, most_bytes: int) -> bytes:
    """All of the body, of ``most_bytes`` at most; what is too large by its header is not read.

    Raises:
        Problem: it is larger.
        ClientDisconnect: the caller has gone.
    """
    said = request.headers.get("content-length", "")
    if said.isdigit() and int(said) > most_bytes:
        raise _too_large(most_bytes)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most_bytes:
            raise _too_large(most_bytes)
        chunks.append(chunk)
    return b"".join(chunks)


def not_empty(encoded: bytes) -> bytes:
    """The picture itself; raises :class:`Problem` where there is none."""
    if not encoded:
        raise Problem("bad-picture", "the picture is empty; expected a JPEG, PNG, WebP or BMP")
    return encoded


def _too_large(most_bytes: int) -> Problem:
    return Problem("too-large", f"the body is larger than the {most_bytes} bytes that are taken here")
