"""The way to a server over HTTP, for an event loop."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from detserve_client.engine.call_headers import headers_of_this_call
from detserve_client.engine.wire import DetectionRequest, Outputs
from detserve_client.transports import http_messages as messages
from detserve_client.transports.async_http_connection import AsyncHttpConnection
from detserve_client.transports.http_exchange import Answer, request_bytes
from detserve_client.transports.http_pool import HttpPool
from detserve_core.endpoint import Endpoint
from detserve_core.errors import ModelNotFound, RequestRejected


class AsyncHttpTransport:
    """As :class:`~detserve_client.transports.http.HttpTransport`, with connections for each event loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        import httptools

        self._not_http = httptools.HttpParserError
        self._endpoint = endpoint
        self._headers = messages.headers_to(endpoint)
        self._pool = HttpPool(endpoint, AsyncHttpConnection)

    async def infer(self, request: DetectionRequest, timeout_s: float) -> Outputs:
        """Send one request; see :class:`~detserve_client.transports.base.AsyncTransport`."""
        body, headers = messages.infer_body(request, timeout_s)
        path = messages.model_path(request.model, "infer")
        answer = await self._send("POST", path, request.model, timeout_s, body, headers)
        return messages.outputs_of(answer.body, answer.headers, request.model)

    async def model_config(self, model: str, timeout_s: float) -> dict[str, Any]:
        """The model's configuration."""
        answer = await self._send("GET", messages.model_path(model, "config"), model, timeout_s)
        return messages.config_of(answer.body, self._endpoint)

    async def ready(self, model: str, timeout_s: float) -> bool:
        """Whether the model is loaded and takes requests."""
        try:
            await self._send("GET", messages.model_path(model, "ready"), model, timeout_s)
        except ModelNotFound:
            return False
        return True

    async def server_ready(self, timeout_s: float) -> bool:
        """Whether the server as a whole is ready."""
        try:
            await self._send("GET", messages.READY_PATH, "", timeout_s)
        except RequestRejected:
            return False
        return True

    async def models(self, timeout_s: float) -> list[str]:
        """The names of all models that are ready, steps of pipelines included."""
        answer = await self._send("GET", messages.STATISTICS_PATH, "", timeout_s)
        return messages.models_of(answer.body, self._endpoint)

    async def shared_regions(self, timeout_s: float) -> list[str]:
        """The names of the registered regions of shared memory."""
        answer = await self._send("GET", messages.REGIONS_PATH, "", timeout_s)
        return messages.regions_of(answer.body, self._endpoint)

    async def register_region(self, name: str, key: str, size_bytes: int, timeout_s: float) -> None:
        """Have the server map a region."""
        body = messages.register_body(key, size_bytes)
        await self._send("POST", messages.region_path(name, "register"), "", timeout_s, body)

    async def unregister_region(self, name: str, timeout_s: float) -> None:
        """Have the server let go of a region."""
        await self._send("POST", messages.region_path(name, "unregister"), "", timeout_s)

    async def close(self) -> None:
        """Close the connections; one that has a request in flight is closed after it."""
        self._pool.close()
        await asyncio.sleep(0)  # the event loop closes them at its next turn

    async def _send(
        self,
        method: str,
        path: str,
        model: str,
        timeout_s: float,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
    ) -> Answer:
        given = {**self._headers, **headers_of_this_call(), **(headers or {})}
        request = request_bytes(method, path, given, body)
        try:
            answer = await self._exchange(request, time.monotonic() + timeout_s)
        except (OSError, self._not_http) as error:
            raise messages.mapped(error, self._endpoint, timeout_s) from None
        if answer.status != 200:
            raise messages.refusal(answer.status, answer.body, self._endpoint, model)
        return answer

    async def _exchange(self, request: bytes, deadline_s: float) -> Answer:
        connection = self._pool.take()
        try:
            answer, reusable = await connection.exchange(request, deadline_s)
        except BaseException:
            connection.close()
            raise
        self._pool.give_back(connection, reusable)
        return answer
