"""The way to a server over HTTP, for an event loop."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from detserve_client.endpoint import Endpoint
from detserve_client.errors import InferenceError, ModelNotFound
from detserve_client.faults import too_late, unreachable
from detserve_client.transports import http_messages as messages
from detserve_client.wire import DetectionRequest, Outputs


class AsyncHttpTransport:
    """A session of aiohttp, made by the first call inside the event loop that uses it."""

    def __init__(self, endpoint: Endpoint) -> None:
        import aiohttp

        self._aiohttp = aiohttp
        self._endpoint = endpoint
        self._tls: Any = endpoint.security.ssl_context() if endpoint.tls else True
        self._headers = {"Accept-Encoding": "identity", **endpoint.security.headers()}
        self._session: aiohttp.ClientSession | None = None

    async def infer(self, request: DetectionRequest, timeout_s: float) -> Outputs:
        """Send one request; see :class:`~detserve_client.transports.base.AsyncTransport`."""
        body, headers = messages.infer_body(request, timeout_s)
        content, headers = await self._send(
            "POST",
            messages.model_path(request.model, "infer"),
            request.model,
            timeout_s,
            data=body,
            headers=headers,
        )
        return messages.outputs_of(content, headers, request.model)

    async def model_config(self, model: str, timeout_s: float) -> dict[str, Any]:
        """The model's configuration."""
        content, _ = await self._send("GET", messages.model_path(model, "config"), model, timeout_s)
        return messages.config_of(content, self._endpoint)

    async def ready(self, model: str, timeout_s: float) -> bool:
        """Whether the model is loaded and takes requests."""
        try:
            await self._send("GET", messages.model_path(model, "ready"), model, timeout_s)
        except ModelNotFound:
            return False
        return True

    async def shared_regions(self, timeout_s: float) -> list[str]:
        """The names of the registered regions of shared memory."""
        return messages.regions_of(
            (await self._send("GET", messages.REGIONS_PATH, "", timeout_s))[0], self._endpoint
        )

    async def register_region(self, name: str, key: str, size_bytes: int, timeout_s: float) -> None:
        """Have the server map a region."""
        body = messages.register_body(key, size_bytes)
        await self._send("POST", messages.region_path(name, "register"), "", timeout_s, data=body)

    async def unregister_region(self, name: str, timeout_s: float) -> None:
        """Have the server let go of a region."""
        await self._send("POST", messages.region_path(name, "unregister"), "", timeout_s)

    async def close(self) -> None:
        """Close the session."""
        if self._session is not None:
            await self._session.close()

    async def _send(
        self, method: str, path: str, model: str, timeout_s: float, **options: Any
    ) -> tuple[bytes, Any]:
        from yarl import URL

        url = f"{self._endpoint}{path}"
        if self._session is None:
            connector = self._aiohttp.TCPConnector(limit=0, ssl=self._tls)
            self._session = self._aiohttp.ClientSession(connector=connector, headers=self._headers)
        limit = self._aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._session.request(
                method, URL(url, encoded=True), timeout=limit, allow_redirects=False, **options
            ) as response:
                content = await response.read()
        except (asyncio.TimeoutError, self._aiohttp.ClientError, OSError) as error:
            raise mapped(error, self._endpoint, timeout_s) from error
        if response.status != 200:
            raise messages.refusal(response.status, content, self._endpoint, model)
        return content, response.headers


def mapped(error: Exception, endpoint: Endpoint, timeout_s: float) -> InferenceError:
    """One of detserve's errors for one of aiohttp's or the operating system's."""
    from aiohttp import ClientPayloadError, ClientResponseError, InvalidURL

    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return too_late(timeout_s, url=str(endpoint))
    if isinstance(error, ClientResponseError):
        return messages.not_http(endpoint)
    if isinstance(error, InvalidURL):
        return messages.unreadable(endpoint, error)
    cause = error.__cause__ if isinstance(error, ClientPayloadError) and error.__cause__ else error
    cause = getattr(cause, "os_error", cause)
    words = str(getattr(cause, "strerror", None) or cause)
    return unreachable(re.sub(r"\[\w+ ?-?\d*\] ?|[()]", "", words).strip(), url=str(endpoint))
