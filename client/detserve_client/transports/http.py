"""The way to a server over HTTP."""

from __future__ import annotations

import time
from typing import Any

from detserve_client.engine.cancellation import Cancellation
from detserve_client.engine.tracing import trace_headers
from detserve_client.engine.wire import DetectionRequest, Outputs
from detserve_client.transports import http_messages as messages
from detserve_client.transports.http_connection import HttpConnection
from detserve_client.transports.http_exchange import Answer, request_bytes
from detserve_client.transports.http_pool import HttpPool
from detserve_core.endpoint import Endpoint
from detserve_core.errors import ModelNotFound, RequestRejected


class HttpTransport:
    """Connections that are kept for the next request, as many as there are requests in flight."""

    def __init__(self, endpoint: Endpoint) -> None:
        import httptools

        self._not_http = httptools.HttpParserError
        self._endpoint = endpoint
        self._headers = messages.headers_to(endpoint)
        self._pool = HttpPool(endpoint, HttpConnection)

    def infer(
        self, request: DetectionRequest, timeout_s: float, cancellation: Cancellation | None = None
    ) -> Outputs:
        """Send one request; see :class:`~detserve_client.transports.base.Transport`."""
        body, headers = messages.infer_body(request, timeout_s)
        path = messages.model_path(request.model, "infer")
        answer = self._send("POST", path, request.model, timeout_s, body, headers, cancellation)
        return messages.outputs_of(answer.body, answer.headers, request.model)

    def model_config(self, model: str, timeout_s: float) -> dict[str, Any]:
        """The model's configuration."""
        answer = self._send("GET", messages.model_path(model, "config"), model, timeout_s)
        return messages.config_of(answer.body, self._endpoint)

    def ready(self, model: str, timeout_s: float) -> bool:
        """Whether the model is loaded and takes requests."""
        try:
            self._send("GET", messages.model_path(model, "ready"), model, timeout_s)
        except ModelNotFound:
            return False
        return True

    def server_ready(self, timeout_s: float) -> bool:
        """Whether the server as a whole is ready."""
        try:
            self._send("GET", messages.READY_PATH, "", timeout_s)
        except RequestRejected:
            return False
        return True

    def models(self, timeout_s: float) -> list[str]:
        """The names of all models that are ready, steps of pipelines included."""
        answer = self._send("GET", messages.STATISTICS_PATH, "", timeout_s)
        return messages.models_of(answer.body, self._endpoint)

    def shared_regions(self, timeout_s: float) -> list[str]:
        """The names of the registered regions of shared memory."""
        answer = self._send("GET", messages.REGIONS_PATH, "", timeout_s)
        return messages.regions_of(answer.body, self._endpoint)

    def register_region(self, name: str, key: str, size_bytes: int, timeout_s: float) -> None:
        """Have the server map a region."""
        body = messages.register_body(key, size_bytes)
        self._send("POST", messages.region_path(name, "register"), "", timeout_s, body)

    def unregister_region(self, name: str, timeout_s: float) -> None:
        """Have the server let go of a region."""
        self._send("POST", messages.region_path(name, "unregister"), "", timeout_s)

    def close(self) -> None:
        """Close the connections; one that has a request in flight is closed after it."""
        self._pool.close()

    def _send(
        self,
        method: str,
        path: str,
        model: str,
        timeout_s: float,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        cancellation: Cancellation | None = None,
    ) -> Answer:
        request = request_bytes(method, path, {**self._headers, **trace_headers(), **(headers or {})}, body)
        try:
            answer = self._exchange(request, time.monotonic() + timeout_s, cancellation)
        except (OSError, self._not_http) as error:
            if cancellation is not None:
                cancellation.check()
            raise messages.mapped(error, self._endpoint, timeout_s) from None
        if answer.status != 200:
            raise messages.refusal(answer.status, answer.body, self._endpoint, model)
        return answer

    def _exchange(self, request: bytes, deadline_s: float, cancellation: Cancellation | None) -> Answer:
        connection = self._pool.take()
        try:
            if cancellation is None:
                answer, reusable = connection.exchange(request, deadline_s)
            else:
                with cancellation.on_cancel(connection.end):
                    answer, reusable = connection.exchange(request, deadline_s)
                cancellation.check()  # it may be about to end this connection
        except BaseException:
            connection.close()
            raise
        self._pool.give_back(connection, reusable)
        return answer
