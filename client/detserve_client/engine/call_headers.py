"""Headers that go with single calls of an :class:`~detserve_client.AsyncClient`: for who calls for others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from detserve_client.engine.tracing import trace_headers

_HEADERS: ContextVar[Mapping[str, str]] = ContextVar("call_headers")
_NONE: Mapping[str, str] = {}


@contextmanager
def call_headers(headers: Mapping[str, str]) -> Iterator[None]:
    """Send ``headers`` with every call that this task makes within the block, over gRPC as metadata.

    Names are in lower case; names and values are printable ASCII, which is not checked here. Usage::

        with call_headers({"detserve-models": ",codes,"}):
            found = await client.detect(picture)
    """
    before = _HEADERS.set(headers)
    try:
        yield
    finally:
        _HEADERS.reset(before)


def headers_of_this_call() -> Mapping[str, str]:
    """The current span's ``traceparent``, and what the block around this call says, which goes first."""
    return {**trace_headers(), **_HEADERS.get(_NONE)}
