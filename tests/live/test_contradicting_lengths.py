"""A BYTES tensor that contradicts its own lengths or its shape is its sender's mistake, whoever notices."""

from __future__ import annotations

import http.client
import json
import shutil
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import grpc
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.grpc import service_pb2, service_pb2_grpc

from detserve_client import Client
from detserve_server.triton.embedded import RunningServer, embedded_server
from tests.live.behind_gateway import nginx_gateway, upstream
from tests.live.conftest import CHECKOUT, DEFAULT, SAMPLES

PICTURE = (SAMPLES / "scene_2.jpg").read_bytes()


def _element(content: bytes, length: int | None = None) -> bytes:
    return struct.pack("<I", len(content) if length is None else length) + content


CONTRADICTING = {
    "one byte more than there is": ([1, 1], _element(PICTURE, len(PICTURE) + 1)),
    "2 GiB more": ([1, 1], _element(PICTURE, 2**31 - 1)),
    "negative, read as signed": ([1, 1], _element(PICTURE, 2**32 - 1)),
    "less than there is": ([1, 1], _element(PICTURE, 10)),
    "bytes behind the last": ([1, 1], _element(PICTURE) + b"xy"),
    "no whole length": ([1, 1], b"\1\0\0"),
    "nothing": ([1, 1], b""),
    "two for one": ([1, 1], _element(PICTURE) * 2),
    "one for two": ([2, 1], _element(PICTURE)),
    "the second of two": ([2, 1], _element(PICTURE) + _element(PICTURE, len(PICTURE) + 5)),
}


@pytest.fixture(scope="module", params=["server", "own"])
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """The pipeline within the server's process, and on Triton's python backend."""
    folder = tmp_path_factory.mktemp(request.param)
    for model in (CHECKOUT / "model_repository").glob(f"{DEFAULT}*"):
        shutil.copytree(model, folder / model.name)
    config = folder / f"{DEFAULT}_pipeline/config.pbtxt"
    config.write_text(config.read_text().replace('"server"', f'"{request.param}"'))
    with embedded_server(folder, allow_shared_memory=True) as server:
        yield server


def _grpc_request(model: str, shape: list[int], raw: bytes) -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[raw])
    request.inputs.add(name="IMAGE", datatype="BYTES", shape=shape)
    return request


def _over_grpc(server: RunningServer, model: str, shape: list[int], raw: bytes) -> str:
    return _status_over_grpc(server, _grpc_request(model, shape, raw))


def _status_over_grpc(server: RunningServer, request: service_pb2.ModelInferRequest) -> str:
    with grpc.insecure_channel(upstream(server).grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            stub.ModelInfer(request, timeout=20)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"


def _over_http(server: RunningServer, model: str, shape: list[int], raw: bytes) -> int:
    tensor = {
        "name": "IMAGE",
        "datatype": "BYTES",
        "shape": shape,
        "parameters": {"binary_data_size": len(raw)},
    }
    return _post(server, model, tensor, raw)


def _post(server: RunningServer, model: str, tensor: dict[str, Any], raw: bytes = b"") -> int:
    head = json.dumps({"inputs": [tensor]}).encode()
    connection = http.client.HTTPConnection(upstream(server).http, timeout=20)
    length = {"Inference-Header-Content-Length": str(len(head))} if raw else {}
    connection.request("POST", f"/v2/models/{model}/infer", head + raw, length)
    status = connection.getresponse().status
    connection.close()
    return status


@contextmanager
def _region(server: RunningServer, content: bytes) -> Iterator[str]:
    """Shared memory that holds ``content`` and that the server knows."""
    memory = SharedMemory(create=True, size=len(content))
    name = memory.name
    try:
        memory.buf[: len(content)] = content
        with grpcclient.InferenceServerClient(upstream(server).grpc) as client:
            client.register_system_shared_memory(name, f"/{name}", len(content))
            try:
                yield name
            finally:
                client.unregister_system_shared_memory(name)
    finally:
        memory.close()
        memory.unlink()


@pytest.mark.parametrize("model", [DEFAULT, f"{DEFAULT}_pipeline"])
@pytest.mark.parametrize("case", CONTRADICTING)
def test_it_is_refused_as_a_wrong_request(running: RunningServer, model: str, case: str) -> None:
    assert _over_grpc(running, model, *CONTRADICTING[case]) == "INVALID_ARGUMENT"
    assert _over_http(running, model, *CONTRADICTING[case]) == 400


@pytest.mark.parametrize("model", [DEFAULT, f"{DEFAULT}_pipeline"])
@pytest.mark.parametrize("case", [case for case, (_, raw) in CONTRADICTING.items() if raw])
def test_it_is_refused_in_shared_memory_too(running: RunningServer, model: str, case: str) -> None:
    shape, raw = CONTRADICTING[case]
    with _region(running, raw) as name:
        where = {"shared_memory_region": name, "shared_memory_byte_size": len(raw)}
        request = service_pb2.ModelInferRequest(model_name=model)
        parameters = request.inputs.add(name="IMAGE", datatype="BYTES", shape=shape).parameters
        parameters["shared_memory_region"].string_param = name
        parameters["shared_memory_byte_size"].int64_param = len(raw)
        assert _status_over_grpc(running, request) == "INVALID_ARGUMENT"
        tensor = {"name": "IMAGE", "datatype": "BYTES", "shape": shape, "parameters": where}
        assert _post(running, model, tensor) == 400


@pytest.mark.parametrize("model", [DEFAULT, f"{DEFAULT}_pipeline"])
@pytest.mark.parametrize(("shape", "count"), [([1, 1], 0), ([1, 1], 2), ([2, 1], 1)])
def test_elements_that_are_not_as_many_as_the_shape_says(
    running: RunningServer, model: str, shape: list[int], count: int
) -> None:
    """As elements of their own: gRPC's bytes_contents, and JSON."""
    request = service_pb2.ModelInferRequest(model_name=model)
    tensor = request.inputs.add(name="IMAGE", datatype="BYTES", shape=shape)
    tensor.contents.bytes_contents.extend([PICTURE] * count)
    assert _status_over_grpc(running, request) == "INVALID_ARGUMENT"
    as_json = {"name": "IMAGE", "datatype": "BYTES", "shape": shape, "data": ["picture"] * count}
    assert _post(running, model, as_json) == 400


def test_requests_of_others_at_the_same_time_are_answered(running: RunningServer) -> None:
    good, bad = ([1, 1], _element(PICTURE)), CONTRADICTING["one byte more than there is"]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            tensors = [good] * 3 + [bad] + [good] * 4
            found = list(pool.map(lambda tensor: _over_grpc(running, DEFAULT, *tensor), tensors))
            assert found == ["OK"] * 3 + ["INVALID_ARGUMENT"] + ["OK"] * 4


def test_the_audit_log_calls_it_rejected(running: RunningServer, tmp_path: Path) -> None:
    with nginx_gateway(tmp_path / "gateway", [upstream(running)]) as gateway:
        with Client(gateway.url, DEFAULT, security=gateway.security) as client:
            boxes = len(client.detect(PICTURE))
        trusted = grpc.ssl_channel_credentials((gateway.folder / "ca.crt").read_bytes())
        with grpc.secure_channel(gateway.url.partition("://")[2], trusted) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            key = (("authorization", f"Bearer {gateway.security.api_key}"),)
            for shape, raw in CONTRADICTING.values():
                with pytest.raises(grpc.RpcError):
                    stub.ModelInfer(_grpc_request(DEFAULT, shape, raw), timeout=20, metadata=key)
        assert boxes > 0
        deadline_s = time.monotonic() + 10  # nginx writes a line when its answer has been sent
        while len(gateway.inferences()) <= len(CONTRADICTING):
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        outcomes = [record["outcome"] for record in gateway.inferences()]
        assert outcomes == ["ok"] + ["rejected"] * len(CONTRADICTING)
