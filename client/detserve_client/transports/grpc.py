"""The way to a server over gRPC."""

from __future__ import annotations

from typing import Any

from detserve_client.engine.cancellation import Cancellation
from detserve_client.engine.faults import unreachable
from detserve_client.engine.tracing import trace_headers
from detserve_client.engine.wire import DetectionRequest, Outputs
from detserve_client.transports import grpc_messages as messages
from detserve_core.endpoint import Endpoint
from detserve_core.errors import ModelNotFound


class GrpcTransport:
    """One gRPC channel. Channels of one process to one address share their connection."""

    def __init__(self, endpoint: Endpoint) -> None:
        import grpc

        self._endpoint = endpoint
        self._rpc_error = grpc.RpcError
        self._future_cancelled = grpc.FutureCancelledError
        arguments = messages.channel_arguments(endpoint)
        if endpoint.tls:
            credentials = endpoint.security.grpc_credentials()
            self._channel = grpc.secure_channel(endpoint.address, credentials, arguments)
        else:
            self._channel = grpc.insecure_channel(endpoint.address, arguments)
        self._calls = messages.Calls(self._channel)

    def infer(
        self, request: DetectionRequest, timeout_s: float, cancellation: Cancellation | None = None
    ) -> Outputs:
        """Send one request; see :class:`~detserve_client.transports.base.Transport`."""
        message = messages.infer_message(request, timeout_s)
        response = self._send(self._calls.infer, message, request.model, timeout_s, cancellation)
        return messages.outputs_of(response, request.model)

    def model_config(self, model: str, timeout_s: float) -> dict[str, Any]:
        """The model's configuration."""
        message = messages.config_message(model)
        return messages.config_of(self._send(self._calls.model_config, message, model, timeout_s))

    def ready(self, model: str, timeout_s: float) -> bool:
        """Whether the model is loaded and takes requests."""
        try:
            message = messages.ready_message(model)
            return bool(self._send(self._calls.model_ready, message, model, timeout_s).ready)
        except ModelNotFound:
            return False

    def server_ready(self, timeout_s: float) -> bool:
        """Whether the server as a whole is ready."""
        return bool(
            self._send(self._calls.server_ready, messages.server_ready_message(), "", timeout_s).ready
        )

    def models(self, timeout_s: float) -> list[str]:
        """The names of all models that are ready, steps of pipelines included."""
        answer = self._send(self._calls.statistics, messages.statistics_message(), "", timeout_s)
        return [model.name for model in answer.model_stats]

    def shared_regions(self, timeout_s: float) -> list[str]:
        """The names of the registered regions of shared memory."""
        message = messages.regions_message()
        return list((self._send(self._calls.regions, message, "", timeout_s)).regions)

    def register_region(self, name: str, key: str, size_bytes: int, timeout_s: float) -> None:
        """Have the server map a region."""
        message = messages.register_message(name, key, size_bytes)
        self._send(self._calls.register_region, message, "", timeout_s)

    def unregister_region(self, name: str, timeout_s: float) -> None:
        """Have the server let go of a region."""
        self._send(self._calls.unregister_region, messages.unregister_message(name), "", timeout_s)

    def close(self) -> None:
        """Close the channel; calls in flight are cancelled."""
        self._channel.close()

    def _send(
        self, call: Any, message: Any, model: str, timeout_s: float, cancellation: Cancellation | None = None
    ) -> Any:
        metadata = [*self._endpoint.security.metadata(model), *trace_headers().items()]
        try:
            if cancellation is None:
                return call(message, timeout=timeout_s, metadata=metadata)
            under_way = call.future(message, timeout=timeout_s, metadata=metadata)
            with cancellation.on_cancel(under_way.cancel):
                return under_way.result()
        except self._rpc_error as error:
            if cancellation is not None:
                cancellation.check()
            raise messages.mapped(error, self._endpoint, model, timeout_s) from None
        except ValueError:
            raise ValueError("the client is closed") from None
        except self._future_cancelled:
            if cancellation is not None:
                cancellation.check()
            raise unreachable("the connection was closed", url=str(self._endpoint)) from None
