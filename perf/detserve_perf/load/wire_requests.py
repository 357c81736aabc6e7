"""Requests made before a measurement, answers read outside of it: Triton's two protocols and plain POST."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detserve_core import contract
from detserve_core.endpoint import Endpoint
from detserve_perf.load.generator import HttpRequest, Send, grpc_sender, http_sender

Found = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]
"""boxes [n,4] in pixels of the picture, scores [n], classes [n]."""

_JSON_LENGTH = "Inference-Header-Content-Length"


def triton_sender(
    endpoint: Endpoint, model: str, pictures: Sequence[bytes]
) -> AbstractAsyncContextManager[Send]:
    """Sends the pictures to Triton, or to its gateway, over the endpoint's protocol."""
    if endpoint.protocol == "grpc":
        return grpc_sender(endpoint, triton_grpc_requests(model, pictures), model)
    return http_sender(endpoint, f"/v2/models/{model}/infer", triton_http_requests(pictures))


def triton_grpc_requests(model: str, pictures: Sequence[bytes]) -> list[bytes]:
    """One serialised ModelInferRequest for each picture."""
    from tritonclient.grpc import service_pb2

    requests = []
    for picture in pictures:
        request = service_pb2.ModelInferRequest(model_name=model)
        request.inputs.add(name=contract.IMAGE, datatype="BYTES", shape=[1, 1])
        request.raw_input_contents.append(struct.pack("<I", len(picture)) + picture)
        requests.append(request.SerializeToString())
    return requests


def triton_http_requests(pictures: Sequence[bytes]) -> list[HttpRequest]:
    """One binary KServe body for each picture."""
    from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

    outputs = [InferRequestedOutput(name) for name in contract.OUTPUTS]
    requests = []
    for picture in pictures:
        tensor = InferInput(contract.IMAGE, [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[picture]], np.object_))
        body, json_bytes = InferenceServerClient.generate_request_body([tensor], outputs=outputs)
        headers = {_JSON_LENGTH: str(json_bytes), "Content-Type": "application/octet-stream"}
        requests.append(HttpRequest(bytes(body), headers))
    return requests


def posted_requests(pictures: Sequence[bytes]) -> list[HttpRequest]:
    """The picture itself as the body."""
    return [HttpRequest(picture, {"Content-Type": "image/jpeg"}) for picture in pictures]


def base64_requests(pictures: Sequence[bytes]) -> list[HttpRequest]:
    """The picture as base64 in JSON, ``{"picture": ...}``."""
    headers = {"Content-Type": "application/json"}
    return [
        HttpRequest(json.dumps({"picture": base64.b64encode(picture).decode()}).encode(), headers)
        for picture in pictures
    ]


def read_triton_grpc(answer: bytes) -> Found:
    """A serialised ModelInferResponse."""
    from tritonclient.grpc import InferResult, service_pb2

    return _unpadded(InferResult(service_pb2.ModelInferResponse.FromString(answer)))


def read_triton_http(answer: bytes) -> Found:
    """A binary KServe body; the JSON in front ends where its braces do."""
    from tritonclient.http import InferResult

    text = answer.decode("latin-1")
    _, json_bytes = json.JSONDecoder().raw_decode(text)
    return _unpadded(InferResult.from_response_body(answer, header_length=json_bytes))


def read_json(answer: bytes) -> Found:
    """``{"boxes": [[...]], "scores": [...], "classes": [...]}``."""
    found: Mapping[str, Any] = json.loads(answer)
    boxes = np.array(found["boxes"], np.float32).reshape(-1, 4)
    return boxes, np.array(found["scores"], np.float32), np.array(found["classes"], np.int32)


def read_rest(answer: bytes) -> Found:
    """What ``detserve rest`` answers."""
    rows = json.loads(answer)["detections"]
    boxes = np.array([row["box"] for row in rows], np.float32).reshape(-1, 4)
    scores = np.array([row["score"] for row in rows], np.float32)
    return boxes, scores, np.array([row["class_id"] for row in rows], np.int32)


def _unpadded(result: Any) -> Found:
    count = int(result.as_numpy(contract.NUM_DETECTIONS).reshape(-1)[0])
    boxes, scores, classes = (
        result.as_numpy(name)[0, :count] for name in (contract.BOXES, contract.SCORES, contract.CLASSES)
    )
    return boxes, scores, classes
