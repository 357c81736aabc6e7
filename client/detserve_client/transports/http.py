"""The way to a server over HTTP."""

from __future__ import annotations

import json
import re
from http.client import BadStatusLine, RemoteDisconnected
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from detserve_client import contract
from detserve_client.endpoint import Endpoint
from detserve_client.errors import ContractViolation, ModelNotFound
from detserve_client.faults import error_from_http, too_late, unreachable
from detserve_client.wire import DetectionRequest, Outputs, picture_tensor

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

_CONNECTIONS = 64
_HEADER_LENGTH = "Inference-Header-Content-Length"


class HttpTransport:
    """A pool of HTTP connections.

    tritonclient writes and reads the messages (binary tensors), urllib3 carries them: tritonclient's own HTTP
    client is for one thread and has no timeout per request.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        import tritonclient.http
        import urllib3

        self._tritonclient = tritonclient.http
        self._urllib3 = urllib3
        self._url = str(endpoint)
        tls = {"ssl_context": endpoint.security.ssl_context()} if endpoint.tls else {}
        self._pool = urllib3.connection_from_url(self._url, maxsize=_CONNECTIONS, **tls)
        self._headers = endpoint.security.headers()

    def infer(self, request: DetectionRequest, timeout_s: float) -> Outputs:
        """Send one picture; see :class:`~detserve_client.transports.base.Transport`."""
        client = self._tritonclient.InferenceServerClient
        tensor = self._tritonclient.InferInput(contract.IMAGE, [1, 1], "BYTES")
        tensor.set_data_from_numpy(picture_tensor(request), binary_data=True)
        outputs = [
            self._tritonclient.InferRequestedOutput(name, binary_data=True) for name in contract.OUTPUTS
        ]
        body, header_length = client.generate_request_body(
            [tensor], outputs=outputs, parameters=dict(request.parameters)
        )
        headers = {"Content-Type": "application/octet-stream", _HEADER_LENGTH: str(header_length)}
        response = self._send("POST", request.model, "infer", timeout_s, body=body, headers=headers)
        length = response.headers.get(_HEADER_LENGTH)
        try:
            result = client.parse_response_body(response.data, header_length=length and int(length))
            found = {name: result.as_numpy(name) for name in contract.OUTPUTS}
        except (ValueError, TypeError, KeyError, self._tritonclient.InferenceServerException) as error:
            raise ContractViolation(
                f"the answer of model {request.model!r} cannot be read: {error}"
            ) from error
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def model_config(self, model: str, timeout_s: float) -> dict[str, Any]:
        """The model's configuration."""
        response = self._send("GET", model, "config", timeout_s)
        try:
            config = json.loads(response.data)
        except ValueError:
            config = None
        if not isinstance(config, dict):
            raise ContractViolation(f"{self._url} does not answer as a Triton server: no JSON configuration")
        return config

    def ready(self, model: str, timeout_s: float) -> bool:
        """Whether the model is loaded and takes requests."""
        try:
            self._send("GET", model, "ready", timeout_s)
        except ModelNotFound:
            return False
        return True

    def close(self) -> None:
        """Close the pooled connections."""
        self._pool.close()

    def _send(
        self,
        method: str,
        model: str,
        action: str,
        timeout_s: float,
        *,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> BaseHTTPResponse:
        errors = self._urllib3.exceptions
        try:
            response = self._pool.urlopen(
                method,
                f"/v2/models/{quote(model, safe='')}/{action}",
                body=body,
                headers={**self._headers, **(headers or {})},
                retries=False,
                redirect=False,
                timeout=self._urllib3.Timeout(total=timeout_s),
            )
        except errors.NewConnectionError as error:  # a TimeoutError by class, yet no time-out
            raise unreachable(_reason(error), url=self._url) from error
        except errors.TimeoutError as error:
            raise too_late(timeout_s, url=self._url) from error
        except (errors.ProtocolError, errors.SSLError) as error:
            if isinstance(error.args[-1], TimeoutError):  # while sending
                raise too_late(timeout_s, url=self._url) from error
            if _is_not_http(error):
                raise ContractViolation(f"{self._url} does not speak HTTP; is that its gRPC port?") from error
            raise unreachable(_reason(error), url=self._url) from error
        if response.status != 200:
            text = _server_text(response.data)
            raise error_from_http(response.status, text, url=self._url, model=model)
        return response


def _is_not_http(error: Exception) -> bool:
    cause = error.args[-1]
    return isinstance(cause, BadStatusLine) and not isinstance(cause, RemoteDisconnected)


def _reason(error: Exception) -> str:
    """The innermost words of a connection error, without its number."""
    return re.sub(r"\[\w+ ?-?\d*\] ?|[()]", "", str(error.args[-1]).rpartition(": ")[2]).strip()


def _server_text(body: bytes) -> str:
    """Triton's words in an error body, none when it is not Triton's."""
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return ""
