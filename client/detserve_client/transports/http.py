"""The way to a server over HTTP."""

from __future__ import annotations

import re
from contextlib import nullcontext
from http.client import BadStatusLine, RemoteDisconnected
from typing import TYPE_CHECKING, Any

from detserve_client.cancellation import Cancellation
from detserve_client.endpoint import Endpoint
from detserve_client.errors import InferenceError, ModelNotFound
from detserve_client.faults import too_late, unreachable
from detserve_client.transports import http_messages as messages
from detserve_client.transports.cancellable_connections import CancellableCall, cancellable_pool
from detserve_client.wire import DetectionRequest, Outputs

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse


class HttpTransport:
    """A pool of HTTP connections."""

    def __init__(self, endpoint: Endpoint) -> None:
        import urllib3

        self._urllib3 = urllib3
        self._endpoint = endpoint
        self._pool = cancellable_pool(endpoint)
        self._headers = endpoint.security.headers()

    def infer(
        self, request: DetectionRequest, timeout_s: float, cancellation: Cancellation | None = None
    ) -> Outputs:
        """Send one request; see :class:`~detserve_client.transports.base.Transport`."""
        body, headers = messages.infer_body(request, timeout_s)
        with CancellableCall(cancellation) if cancellation is not None else nullcontext():
            response = self._send(
                "POST",
                messages.model_path(request.model, "infer"),
                request.model,
                timeout_s,
                body=body,
                headers=headers,
            )
        return messages.outputs_of(response.data, response.headers, request.model)

    def model_config(self, model: str, timeout_s: float) -> dict[str, Any]:
        """The model's configuration."""
        return messages.config_of(
            self._send("GET", messages.model_path(model, "config"), model, timeout_s).data, self._endpoint
        )

    def ready(self, model: str, timeout_s: float) -> bool:
        """Whether the model is loaded and takes requests."""
        try:
            self._send("GET", messages.model_path(model, "ready"), model, timeout_s)
        except ModelNotFound:
            return False
        return True

    def shared_regions(self, timeout_s: float) -> list[str]:
        """The names of the registered regions of shared memory."""
        return messages.regions_of(
            self._send("GET", messages.REGIONS_PATH, "", timeout_s).data, self._endpoint
        )

    def register_region(self, name: str, key: str, size_bytes: int, timeout_s: float) -> None:
        """Have the server map a region."""
        body = messages.register_body(key, size_bytes)
        self._send("POST", messages.region_path(name, "register"), "", timeout_s, body=body)

    def unregister_region(self, name: str, timeout_s: float) -> None:
        """Have the server let go of a region."""
        self._send("POST", messages.region_path(name, "unregister"), "", timeout_s)

    def close(self) -> None:
        """Close the pooled connections."""
        self._pool.close()

    def _send(
        self,
        method: str,
        path: str,
        model: str,
        timeout_s: float,
        *,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> BaseHTTPResponse:
        try:
            response: BaseHTTPResponse = self._pool.urlopen(
                method,
                path,
                body=body,
                headers={**self._headers, **(headers or {})},
                retries=False,
                redirect=False,
                timeout=self._urllib3.Timeout(total=timeout_s),
            )
        except self._urllib3.exceptions.ClosedPoolError:
            raise
        except self._urllib3.exceptions.HTTPError as error:
            raise mapped(error, self._endpoint, timeout_s) from error
        if response.status != 200:
            raise messages.refusal(response.status, response.data, self._endpoint, model)
        return response


def mapped(error: Exception, endpoint: Endpoint, timeout_s: float) -> InferenceError:
    """One of detserve's errors for one of urllib3's."""
    from urllib3 import exceptions as errors

    url = str(endpoint)
    if isinstance(error, errors.NewConnectionError):  # a TimeoutError by class, yet no time-out
        return unreachable(_reason(error), url=url)
    if isinstance(error, errors.TimeoutError):
        return too_late(timeout_s, url=url)
    if not isinstance(error, (errors.ProtocolError, errors.SSLError, errors.ProxyError)):
        return messages.unreadable(endpoint, error)
    cause = error.args[-1] if error.args else error
    if isinstance(cause, TimeoutError):  # while sending
        return too_late(timeout_s, url=url)
    if isinstance(cause, BadStatusLine) and not isinstance(cause, RemoteDisconnected):
        return messages.not_http(endpoint)
    return unreachable(_reason(error), url=url)


def _reason(error: Exception) -> str:
    """The innermost words of a connection error, without its number."""
    return re.sub(
        r"\[\w+ ?-?\d*\] ?|[()]", "", str(error.args[-1] if error.args else error).rpartition(": ")[2]
    ).strip()
