"""Small gRPC servers with a known capacity and queue."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from tritonclient.grpc import service_pb2

SERVICE_S = 0.01
QUEUE = 40


def served(behave) -> Iterator[str]:
    """A server whose ModelInfer is ``behave(request, context)``."""
    handler = grpc.unary_unary_rpc_method_handler(
        behave, request_deserializer=service_pb2.ModelInferRequest.FromString
    )
    server = grpc.server(ThreadPoolExecutor(64))
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"grpc://127.0.0.1:{port}"
    server.stop(None)


@pytest.fixture
def one_at_a_time() -> Iterator[str]:
    """10 ms a request, one after the other, and a queue of 40; says no as Triton does."""
    turn, room = threading.Lock(), threading.Semaphore(QUEUE)

    def behave(request: service_pb2.ModelInferRequest, context: grpc.ServicerContext) -> bytes:
        assert request.raw_input_contents[0][4:] in (b"one", b"two")
        if not room.acquire(blocking=False):
            context.abort(grpc.StatusCode.UNAVAILABLE, "[request id: 1] Exceeds maximum queue size")
        with turn:
            time.sleep(SERVICE_S)
        room.release()
        return b""

    yield from served(behave)
