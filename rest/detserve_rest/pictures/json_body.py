"""A picture in JSON: as base64, or by its address where the operator allows that."""

from __future__ import annotations

import asyncio
import base64
import binascii
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson

from detserve_core.errors import SourceError
from detserve_rest.pictures.body import not_empty
from detserve_rest.pictures.public_addresses import download_from_the_internet
from detserve_rest.problems import Problem
from detserve_rest.service import Settings

_WAYS = ("image", "url")
_FETCHING = ThreadPoolExecutor(4, thread_name_prefix="fetch")


async def picture_in_json(body: bytes, settings: Settings) -> bytes:
    """The picture of ``{"image": BASE64}`` or ``{"url": ADDRESS}``.

    Raises:
        Problem: the body is something else, or addresses are not allowed, or there is no picture there.
    """
    way, text = _said(body)
    if way == "image":
        return not_empty(_decoded(text))
    if not settings.allow_urls:
        raise Problem(
            "urls-not-allowed",
            "this service does not fetch pictures; send the picture itself (its operator can start it with "
            "--allow-urls)",
        )
    loop = asyncio.get_running_loop()
    try:
        fetched = await loop.run_in_executor(_FETCHING, download_from_the_internet, text, settings.most_bytes)
    except SourceError as error:
        raise Problem("bad-picture", str(error)) from None
    return not_empty(fetched)


def _said(body: bytes) -> tuple[str, str]:
    """Which way, and its text."""
    try:
        content: Any = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Problem("bad-request", f"the body is not JSON: {error}") from None
    expected = 'expected {"image": BASE64} or {"url": ADDRESS}'
    if not isinstance(content, dict):
        raise Problem("bad-request", f"the body is no JSON object; {expected}")
    for name in content:
        if name not in _WAYS:
            raise Problem("bad-request", f"the body has a field {name[:80]!r}; {expected}")
    if len(content) != 1:
        raise Problem("bad-request", f"the body has {len(content)} fields; {expected}")
    ((way, text),) = content.items()
    if not isinstance(text, str):
        raise Problem("bad-request", f"the body's {way} is no text; {expected}")
    return way, text


def _decoded(text: str) -> bytes:
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:  # the latter for characters beyond ASCII
        raise Problem("bad-request", f"the body's image is not base64: {error}") from None
    return decoded
