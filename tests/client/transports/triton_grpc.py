"""A real gRPC server of a few lines that speaks Triton's protocol and says what a test tells it to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf import json_format
from tritonclient.grpc import service_pb2, service_pb2_grpc

from detserve_client import Card, Detections
from detserve_client.engine.wire import config_with, padded_outputs

DATATYPES = {"int32": "INT32", "float32": "FP32"}
Answer = Callable[[Any, grpc.ServicerContext], Any]


def infer_response(detections: Detections, rows: int = 5) -> Any:
    """A ``ModelInferResponse`` with these detections."""
    response = service_pb2.ModelInferResponse(model_name="pets")
    for name, tensor in padded_outputs(detections, rows).items():
        datatype = DATATYPES[tensor.dtype.name]
        response.outputs.add(name=name, datatype=datatype, shape=tensor.shape)
        response.raw_output_contents.append(tensor.tobytes())
    return response


class _Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    def __init__(self, card: Card, answer: Answer) -> None:
        self.card = card
        self.answer = answer

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self.answer(request, context)

    def ModelConfig(self, request: Any, context: grpc.ServicerContext) -> Any:
        return json_format.ParseDict({"config": config_with(self.card)}, service_pb2.ModelConfigResponse())

    def ModelReady(self, request: Any, context: grpc.ServicerContext) -> Any:
        return service_pb2.ModelReadyResponse(ready=request.name == "pets")


@contextmanager
def grpc_server(
    card: Card,
    answer: Answer,
    address: str = "127.0.0.1:0",
    credentials: grpc.ServerCredentials | None = None,
) -> Iterator[str]:
    """Serve until the block ends; yields the URL."""
    size = [("grpc.max_receive_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(8), options=size)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Servicer(card, answer), server)
    if credentials is None:
        port = server.add_insecure_port(address)
    else:
        port = server.add_secure_port(address, credentials)
    server.start()
    try:
        yield f"grpc{'' if credentials is None else 's'}://{address.rpartition(':')[0]}:{port}"
    finally:
        server.stop(grace=None).wait()
