"""Requests and answers as the protobuf messages of Triton's gRPC protocol, built and read without copies."""

from __future__ import annotations

import socket
import ssl
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detserve_client.engine.faults import error_from_grpc, too_late
from detserve_client.engine.wire import DetectionRequest, Outputs, picture_tensor
from detserve_client.transports.http_exchange import name_for_tls
from detserve_core import contract
from detserve_core.endpoint import Endpoint, is_loopback
from detserve_core.errors import ContractViolation, InferenceError
from detserve_core.proxies import grpc_arguments

_UNLIMITED = -1
# An answer is four small tensors: 8 pictures with 3840 rows each are under 1 MiB.
_ANSWER_BYTES = 64 << 20

# A server counts pings that come faster than every 5 minutes as abuse, and those without a call too.
_KEEPALIVE_TIME_MS = 360_000
_KEEPALIVE_TIMEOUT_MS = 20_000

_LOOK_S = 0.5

_CHANNEL_ARGUMENTS: list[tuple[str, int]] = [
    ("grpc.max_send_message_length", _UNLIMITED),
    ("grpc.max_receive_message_length", _ANSWER_BYTES),
    ("grpc.keepalive_time_ms", _KEEPALIVE_TIME_MS),
    ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_retries", 0),
]

_DTYPES: dict[str, type[np.generic]] = {"INT32": np.int32, "FP32": np.float32}


def channel_arguments(endpoint: Endpoint) -> list[tuple[str, int]]:
    """The arguments of a channel to the endpoint."""
    return [*_CHANNEL_ARGUMENTS, *grpc_arguments(endpoint.host)]


class Calls:
    """The calls of one channel, ``grpc`` or ``grpc.aio``; the channel's own kind of callable for each.

    The channel does not compress: encoded pictures do not shrink.
    """

    def __init__(self, channel: Any) -> None:
        from tritonclient.grpc import service_pb2

        def method(name: str) -> Any:
            request, response = (
                getattr(service_pb2, f"{name}Request"),
                getattr(service_pb2, f"{name}Response"),
            )
            return channel.unary_unary(
                f"/inference.GRPCInferenceService/{name}",
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )

        self.infer = method("ModelInfer")
        self.model_config = method("ModelConfig")
        self.model_ready = method("ModelReady")
        self.server_ready = method("ServerReady")
        self.statistics = method("ModelStatistics")
        self.regions = method("SystemSharedMemoryStatus")
        self.register_region = method("SystemSharedMemoryRegister")
        self.unregister_region = method("SystemSharedMemoryUnregister")


def infer_message(request: DetectionRequest, timeout_s: float) -> Any:
    """The ``ModelInferRequest``. Triton drops it from its queues after ``timeout_s``."""
    from tritonclient.grpc import service_pb2

    message = service_pb2.ModelInferRequest(model_name=request.model)
    image = message.inputs.add(name=contract.IMAGE, datatype="BYTES", shape=(request.count, 1))
    if request.shared is None:
        message.raw_input_contents.append(picture_tensor(request.pictures))
    else:
        image.parameters["shared_memory_region"].string_param = request.shared.region
        image.parameters["shared_memory_byte_size"].int64_param = request.shared.size_bytes
    for name in contract.OUTPUTS:
        message.outputs.add(name=name)
    for name, value in request.parameters.items():
        if isinstance(value, int):
            message.parameters[name].int64_param = value
        else:
            message.parameters[name].double_param = value
    message.parameters["timeout"].int64_param = max(1, int(timeout_s * 1e6))
    return message


def config_message(model: str) -> Any:
    """The ``ModelConfigRequest``."""
    from tritonclient.grpc import service_pb2

    return service_pb2.ModelConfigRequest(name=model)


def ready_message(model: str) -> Any:
    """The ``ModelReadyRequest``."""
    from tritonclient.grpc import service_pb2

    return service_pb2.ModelReadyRequest(name=model)


def server_ready_message() -> Any:
    """The ``ServerReadyRequest``."""
    from tritonclient.grpc import service_pb2

    return service_pb2.ServerReadyRequest()


def statistics_message() -> Any:
    """The ``ModelStatisticsRequest`` for all models, which lists those that are loaded.

    Triton's repository index would too, but belongs to the protocol that loads models, which servers close.
    """
    from tritonclient.grpc import service_pb2

    return service_pb2.ModelStatisticsRequest()


def regions_message() -> Any:
    """The ``SystemSharedMemoryStatusRequest`` for all regions."""
    from tritonclient.grpc import service_pb2

    return service_pb2.SystemSharedMemoryStatusRequest()


def register_message(name: str, key: str, size_bytes: int) -> Any:
    """The ``SystemSharedMemoryRegisterRequest``."""
    from tritonclient.grpc import service_pb2

    return service_pb2.SystemSharedMemoryRegisterRequest(name=name, key=key, byte_size=size_bytes)


def unregister_message(name: str) -> Any:
    """The ``SystemSharedMemoryUnregisterRequest``."""
    from tritonclient.grpc import service_pb2

    return service_pb2.SystemSharedMemoryUnregisterRequest(name=name)


def outputs_of(response: Any, model: str) -> Outputs:
    """The tensors of a ``ModelInferResponse``; they are views of it.

    Raises:
        ContractViolation: a tensor is of another type, or has more or fewer bytes than its shape says.
    """
    contents = response.raw_output_contents
    try:
        return {
            output.name: _tensor(output, content)
            for output, content in zip(response.outputs, contents, strict=True)
        }
    except (ValueError, KeyError) as error:
        raise ContractViolation(f"an output of model {model!r} cannot be read: {error}") from None


def _tensor(output: Any, content: bytes) -> NDArray[Any]:
    return np.frombuffer(content, _DTYPES[output.datatype]).reshape(output.shape)


def config_of(response: Any) -> dict[str, Any]:
    """The configuration in a ``ModelConfigResponse``, with the names of config.pbtxt."""
    from google.protobuf.json_format import MessageToDict

    config: dict[str, Any] = MessageToDict(response.config, preserving_proto_field_name=True)
    return config


def mapped(error: Any, endpoint: Endpoint, model: str, timeout_s: float) -> InferenceError:
    """One of detserve's errors for a ``grpc.RpcError`` or ``grpc.aio.AioRpcError``."""
    if error.code().name == "DEADLINE_EXCEEDED":
        return too_late(timeout_s, url=str(endpoint))
    text = error.details() or ""
    if endpoint.tls and "refused" in text and is_loopback(endpoint.host):
        text = _refused_certificate(endpoint) or text
    return error_from_grpc(error.code().name, text, url=str(endpoint), model=model)


def _refused_certificate(endpoint: Endpoint) -> str:
    """What TLS says where an address listens: of ``localhost``'s two, gRPC tells of the last one alone."""
    context, name = endpoint.security.ssl_context(), name_for_tls(endpoint.host)
    for family, kind, protocol, _, address in socket.getaddrinfo(
        endpoint.host, endpoint.port, type=socket.SOCK_STREAM
    ):
        try:
            with socket.socket(family, kind, protocol) as connecting:
                connecting.settimeout(_LOOK_S)
                connecting.connect(address)
                context.wrap_socket(connecting, server_hostname=name).close()
        except ssl.SSLError as error:
            return str(error)
        except OSError:
            continue
    return ""
