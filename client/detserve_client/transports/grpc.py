"""The way to a server over gRPC."""

from __future__ import annotations

from typing import Any

from detserve_client import contract
from detserve_client.endpoint import Endpoint
from detserve_client.errors import ContractViolation, InferenceError, ModelNotFound
from detserve_client.faults import error_from_grpc, too_late
from detserve_client.wire import DetectionRequest, Outputs, picture_tensor

_MESSAGE_BYTES = 2**31 - 1

# A server counts pings that come faster than every 5 minutes as abuse, and those without a call too.
_KEEPALIVE_TIME_MS = 360_000
_KEEPALIVE_TIMEOUT_MS = 20_000

_CHANNEL_ARGUMENTS: list[tuple[str, int]] = [
    ("grpc.max_send_message_length", _MESSAGE_BYTES),
    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", _KEEPALIVE_TIME_MS),
    ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_retries", 0),
]


class GrpcTransport:
    """tritonclient's gRPC client, one channel, no compression (encoded pictures do not compress)."""

    def __init__(self, endpoint: Endpoint) -> None:
        import tritonclient.grpc

        self._tritonclient = tritonclient.grpc
        self._url = str(endpoint)
        self._client = tritonclient.grpc.InferenceServerClient(
            endpoint.address,
            creds=endpoint.security.grpc_credentials() if endpoint.tls else None,
            channel_args=_CHANNEL_ARGUMENTS,
        )
        self._security = endpoint.security

    def infer(self, request: DetectionRequest, timeout_s: float) -> Outputs:
        """Send one picture; see :class:`~detserve_client.transports.base.Transport`."""
        tensor = self._tritonclient.InferInput(contract.IMAGE, [1, 1], "BYTES")
        tensor.set_data_from_numpy(picture_tensor(request))
        outputs = [self._tritonclient.InferRequestedOutput(name) for name in contract.OUTPUTS]
        try:
            result = self._client.infer(
                request.model,
                [tensor],
                outputs=outputs,
                parameters=dict(request.parameters),
                client_timeout=timeout_s,
                headers=self._headers(request.model),
            )
        except self._tritonclient.InferenceServerException as error:
            raise self._mapped(error, request.model, timeout_s) from error
        try:
            found = {name: result.as_numpy(name) for name in contract.OUTPUTS}
        except (ValueError, TypeError) as error:
            raise ContractViolation(
                f"an output of model {request.model!r} cannot be read: {error}"
            ) from error
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def model_config(self, model: str, timeout_s: float) -> dict[str, Any]:
        """The model's configuration."""
        try:
            answer = self._client.get_model_config(
                model, as_json=True, client_timeout=timeout_s, headers=self._headers(model)
            )
        except self._tritonclient.InferenceServerException as error:
            raise self._mapped(error, model, timeout_s) from error
        config: dict[str, Any] = answer["config"]
        return config

    def ready(self, model: str, timeout_s: float) -> bool:
        """Whether the model is loaded and takes requests."""
        try:
            headers = self._headers(model)
            return bool(self._client.is_model_ready(model, client_timeout=timeout_s, headers=headers))
        except self._tritonclient.InferenceServerException as error:
            mapped = self._mapped(error, model, timeout_s)
            if isinstance(mapped, ModelNotFound):
                return False
            raise mapped from error

    def close(self) -> None:
        """Close the channel; calls under way are cancelled."""
        self._client.close()

    def _headers(self, model: str) -> dict[str, str]:
        return dict(self._security.metadata(model))

    def _mapped(self, error: Any, model: str, timeout_s: float) -> InferenceError:
        code = str(error.status()).removeprefix("StatusCode.")
        if code == "DEADLINE_EXCEEDED":
            return too_late(timeout_s, url=self._url)
        return error_from_grpc(code, error.message() or "", url=self._url, model=model)
