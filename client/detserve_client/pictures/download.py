"""A picture fetched from an http(s) address."""

from __future__ import annotations

import time
from collections.abc import Sequence
from http.client import HTTPException, HTTPResponse
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import (
    BaseHandler,
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

from detserve_core.errors import SourceError

TIMEOUT_S = 30.0
MOST_BYTES = 64 << 20
_CHUNK_BYTES = 1 << 16
_HEADERS = {"User-Agent": "detserve", "Accept": "image/*"}
_HANDLERS = (HTTPRedirectHandler, HTTPDefaultErrorHandler, HTTPErrorProcessor)


def download(
    url: str,
    *,
    timeout_s: float = TIMEOUT_S,
    most_bytes: int = MOST_BYTES,
    handlers: Sequence[BaseHandler] | None = None,
) -> bytes:
    """What an http or https URL leads to; redirects and the environment's proxies are followed.

    By urllib.request, which reads the proxies from the environment, as urllib3 does not. ``handlers`` connect
    in their place, without proxies.

    Raises:
        SourceError: another scheme, no answer within ``timeout_s``, a status other than 200, or more than
            ``most_bytes``.
    """
    scheme = urlsplit(url).scheme.lower()
    if scheme not in ("http", "https"):
        raise SourceError(
            f"cannot fetch {url}; expected a path or a URL with http:// or https://, got {scheme}://"
        )
    opener = (
        OpenerDirector()
    )  # without urllib's handlers for file:// and ftp://, to which a server could redirect
    connecting = (ProxyHandler(), HTTPHandler(), HTTPSHandler()) if handlers is None else handlers
    for handler in (*connecting, *(kind() for kind in _HANDLERS)):
        opener.add_handler(handler)
    deadline_s = time.monotonic() + timeout_s
    try:
        with opener.open(Request(url, headers=_HEADERS), timeout=timeout_s) as response:  # noqa: S310
            return _body(response, url, deadline_s, most_bytes)
    except HTTPError as error:
        error.close()
        raise SourceError(f"{url} cannot be fetched: the answer is {error.code} {error.reason}") from None
    except TimeoutError:
        raise SourceError(f"{url} cannot be fetched: no answer within {timeout_s:g} s") from None
    except (URLError, HTTPException, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, TimeoutError):
            raise SourceError(f"{url} cannot be fetched: no answer within {timeout_s:g} s") from None
        raise SourceError(f"{url} cannot be fetched: {getattr(reason, 'strerror', None) or reason}") from None


def _body(response: HTTPResponse, url: str, deadline_s: float, most_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := response.read1(_CHUNK_BYTES):
        parts.append(part)
        size += len(part)
        if size > most_bytes:
            raise SourceError(f"{url} has more than {most_bytes >> 20} MiB; expected a picture")
        if time.monotonic() > deadline_s:
            raise TimeoutError
    if response.length:
        raise SourceError(f"{url} broke off after {size} bytes; expected {size + response.length}")
    return b"".join(parts)
