"""Requests and answers as the bodies of Triton's HTTP protocol with binary tensors."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from detserve_client.engine.faults import error_from_http, too_late, unreachable
from detserve_client.engine.wire import DetectionRequest, Outputs, picture_tensor
from detserve_core import contract
from detserve_core.endpoint import Endpoint
from detserve_core.errors import ContractViolation, InferenceError

_HEADER_LENGTH = "Inference-Header-Content-Length"
_DTYPES: dict[str, type[np.generic]] = {"INT32": np.int32, "FP32": np.float32}
_OUTPUTS = [{"name": name, "parameters": {"binary_data": True}} for name in contract.OUTPUTS]


def headers_to(endpoint: Endpoint) -> dict[str, str]:
    """The headers that every request to ``endpoint`` has."""
    host = replace(endpoint, host=endpoint.host.encode("idna").decode()).address
    return {"Host": host, "Accept-Encoding": "identity", **endpoint.security.headers()}


def model_path(model: str, action: str) -> str:
    """The path of a model's ``infer``, ``config`` or ``ready``."""
    return f"/v2/models/{quote(model, safe='')}/{action}"


READY_PATH = "/v2/health/ready"
STATISTICS_PATH = "/v2/models/stats"
REGIONS_PATH = "/v2/systemsharedmemory/status"


def region_path(name: str, action: str) -> str:
    """The path of a region's ``register`` or ``unregister``."""
    return f"/v2/systemsharedmemory/region/{quote(name, safe='')}/{action}"


def register_body(key: str, size_bytes: int) -> bytes:
    """The body that registers a region."""
    return json.dumps({"key": key, "offset": 0, "byte_size": size_bytes}).encode()


def models_of(body: bytes, endpoint: Endpoint) -> list[str]:
    """The names of the models that the statistics are of.

    Raises:
        ContractViolation: the body has no statistics.
    """
    return _names(body, endpoint, "statistics", within="model_stats")


def regions_of(body: bytes, endpoint: Endpoint) -> list[str]:
    """The names of the registered regions.

    Raises:
        ContractViolation: the body is not a list of regions.
    """
    return _names(body, endpoint, "list of regions")


def _names(body: bytes, endpoint: Endpoint, what: str, within: str | None = None) -> list[str]:
    try:
        content = json.loads(body)
        return [str(entry["name"]) for entry in (content if within is None else content[within])]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ContractViolation(f"{endpoint} does not answer as a Triton server: no {what}") from None


def infer_body(request: DetectionRequest, timeout_s: float) -> tuple[bytes, dict[str, str]]:
    """The body and headers of a request. Triton drops it from its queues after ``timeout_s``."""
    tensor = b""
    where: dict[str, str | int]
    if request.shared is None:
        tensor = picture_tensor(request.pictures)
        where = {"binary_data_size": len(tensor)}
    else:
        where = {
            "shared_memory_region": request.shared.region,
            "shared_memory_byte_size": request.shared.size_bytes,
        }
    image = {"name": contract.IMAGE, "datatype": "BYTES", "shape": [request.count, 1], "parameters": where}
    parameters = {**request.parameters, "timeout": max(1, int(timeout_s * 1e6))}
    header = json.dumps({"inputs": [image], "outputs": _OUTPUTS, "parameters": parameters}).encode()
    headers = {"Content-Type": "application/octet-stream", _HEADER_LENGTH: str(len(header))}
    return header + tensor, headers


def outputs_of(body: bytes, headers: Mapping[str, str], model: str) -> Outputs:
    """The tensors of an answer; they are views of its body. ``headers`` by names in lower case.

    Raises:
        ContractViolation: the body is not what its header says.
    """
    try:
        position = int(headers[_HEADER_LENGTH.lower()])
        found: dict[str, NDArray[Any]] = {}
        for output in json.loads(body[:position])["outputs"]:
            size = output["parameters"]["binary_data_size"]
            content = memoryview(body)[position : position + size]
            found[output["name"]] = np.frombuffer(content, _DTYPES[output["datatype"]]).reshape(
                output["shape"]
            )
            position += size
        return found
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ContractViolation(f"the answer of model {model!r} cannot be read: {error!r}") from None


def config_of(body: bytes, endpoint: Endpoint) -> dict[str, Any]:
    """The configuration in an answer.

    Raises:
        ContractViolation: there is none.
    """
    try:
        config = json.loads(body)
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise ContractViolation(f"{endpoint} does not answer as a Triton server: no JSON configuration")
    return config


def refusal(status: int, body: bytes, endpoint: Endpoint, model: str) -> InferenceError:
    """The error for an answer with another status than 200."""
    try:
        text = str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError, RecursionError):  # not Triton's words
        text = ""
    return error_from_http(status, text, url=str(endpoint), model=model)


def mapped(error: Exception, endpoint: Endpoint, timeout_s: float) -> InferenceError:
    """One of detserve's errors for one of the operating system's, of TLS, or of the HTTP parser."""
    url = str(endpoint)
    if isinstance(error, TimeoutError) and not error.errno:  # with a number it is the kernel's
        return too_late(timeout_s, url=url)
    if isinstance(error, ssl.SSLCertVerificationError):
        return unreachable(getattr(error, "verify_message", "") or str(error), url=url)
    if isinstance(error, ssl.SSLError):
        return unreachable((getattr(error, "reason", "") or "TLS failed").lower().replace("_", " "), url=url)
    if isinstance(error, OSError):
        return unreachable(_reason(error), url=url)
    if str(error).startswith("Expected HTTP/"):
        return _not_http(endpoint)
    return _unreadable(endpoint, error)


def _unreadable(endpoint: Endpoint, error: Exception) -> ContractViolation:
    """The error for an HTTP answer whose body cannot be read."""
    return ContractViolation(f"{endpoint} does not answer as a Triton server: {error}")


def _not_http(endpoint: Endpoint) -> ContractViolation:
    """The error for bytes that are no HTTP answer."""
    return ContractViolation(f"{endpoint} does not speak HTTP; is that its gRPC port?")


def _reason(error: OSError) -> str:
    """The words for an error of the operating system, which asyncio buries in its own text."""
    number = error.errno or next(iter(re.findall(r"\[Errno (\d+)\]", str(error))), None)
    if number is not None and not isinstance(error, socket.gaierror):
        return os.strerror(int(number))
    return error.strerror or str(error) or "the connection was closed"
