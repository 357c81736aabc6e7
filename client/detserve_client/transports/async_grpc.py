"""The way to a server over gRPC, for an event loop."""

from __future__ import annotations

import asyncio
import os
from typing import Any
from weakref import WeakKeyDictionary

from detserve_client.engine.call_headers import headers_of_this_call
from detserve_client.engine.faults import error_from_grpc
from detserve_client.engine.wire import DetectionRequest, Outputs
from detserve_client.transports import grpc_messages as messages
from detserve_core.endpoint import Endpoint
from detserve_core.errors import InferenceError, ModelNotFound


class AsyncGrpcTransport:
    """A channel of ``grpc.aio`` for each event loop that it is used in, made by the first call there."""

    def __init__(self, endpoint: Endpoint) -> None:
        import grpc

        self._grpc = grpc
        self._endpoint = endpoint
        self._opened_in: WeakKeyDictionary[
            asyncio.AbstractEventLoop, tuple[grpc.aio.Channel, messages.Calls]
        ] = WeakKeyDictionary()
        self._closed = False
        self._process: int | None = None

    async def infer(self, request: DetectionRequest, timeout_s: float) -> Outputs:
        """Send one request; see :class:`~detserve_client.transports.base.AsyncTransport`."""
        message = messages.infer_message(request, timeout_s)
        response = await self._send(self._opened().infer, message, request.model, timeout_s)
        return messages.outputs_of(response, request.model)

    async def model_config(self, model: str, timeout_s: float) -> dict[str, Any]:
        """The model's configuration."""
        message = messages.config_message(model)
        return messages.config_of(await self._send(self._opened().model_config, message, model, timeout_s))

    async def ready(self, model: str, timeout_s: float) -> bool:
        """Whether the model is loaded and takes requests."""
        try:
            message = messages.ready_message(model)
            return bool((await self._send(self._opened().model_ready, message, model, timeout_s)).ready)
        except ModelNotFound:
            return False

    async def server_ready(self, timeout_s: float) -> bool:
        """Whether the server as a whole is ready."""
        message = messages.server_ready_message()
        return bool((await self._send(self._opened().server_ready, message, "", timeout_s)).ready)

    async def models(self, timeout_s: float) -> list[str]:
        """The names of all models that are ready, steps of pipelines included."""
        answer = await self._send(self._opened().statistics, messages.statistics_message(), "", timeout_s)
        return [model.name for model in answer.model_stats]

    async def shared_regions(self, timeout_s: float) -> list[str]:
        """The names of the registered regions of shared memory."""
        message = messages.regions_message()
        return list((await self._send(self._opened().regions, message, "", timeout_s)).regions)

    async def register_region(self, name: str, key: str, size_bytes: int, timeout_s: float) -> None:
        """Have the server map a region."""
        message = messages.register_message(name, key, size_bytes)
        await self._send(self._opened().register_region, message, "", timeout_s)

    async def unregister_region(self, name: str, timeout_s: float) -> None:
        """Have the server let go of a region."""
        await self._send(self._opened().unregister_region, messages.unregister_message(name), "", timeout_s)

    async def close(self) -> None:
        """Close the channel; calls in flight are cancelled."""
        self._closed = True
        opened = self._opened_in.pop(asyncio.get_running_loop(), None)
        self._opened_in.clear()  # channels of loops that have ended have nothing in flight
        if opened is not None:
            await opened[0].close()

    def _opened(self) -> messages.Calls:
        self._process = self._process or os.getpid()
        if self._process != os.getpid():
            raise InferenceError(
                "an AsyncClient over gRPC cannot be used on both sides of a fork, where grpc.aio hangs; "
                "make it in the child, or use http://"
            )
        loop = asyncio.get_running_loop()
        if loop not in self._opened_in:
            channel = self._made()
            self._opened_in[loop] = (channel, messages.Calls(channel))
        return self._opened_in[loop][1]

    def _made(self) -> Any:
        address, arguments = self._endpoint.address, messages.channel_arguments(self._endpoint)
        if self._closed:
            raise ValueError("the client is closed")
        if not self._endpoint.tls:
            return self._grpc.aio.insecure_channel(address, arguments)
        credentials = self._endpoint.security.grpc_credentials()
        return self._grpc.aio.secure_channel(address, credentials, arguments)

    async def _send(self, call: Any, message: Any, model: str, timeout_s: float) -> Any:
        metadata = [*self._endpoint.security.metadata(model), *headers_of_this_call().items()]
        try:
            return await call(message, timeout=timeout_s, metadata=metadata)
        except self._grpc.aio.AioRpcError as error:
            raise messages.mapped(error, self._endpoint, model, timeout_s) from None
        except self._grpc.aio.InternalError as error:
            raise error_from_grpc("INTERNAL", str(error), url=str(self._endpoint), model=model) from error
