from __future__ import annotations

import grpc
import pytest

from detserve_client import (
    AccessDenied,
    ContractViolation,
    DeadlineExceeded,
    InferenceError,
    ModelNotFound,
    Overloaded,
    RequestRejected,
    ServerFault,
    ServerUnavailable,
)
from detserve_client.engine.faults import (
    BY_GRPC_CODE,
    BY_HTTP_STATUS,
    error_from_grpc,
    error_from_http,
    plain,
)

URL = "grpc://host:8001"


def test_every_grpc_status_is_mapped() -> None:
    assert set(BY_GRPC_CODE) == {code.name for code in grpc.StatusCode} - {"OK"}


@pytest.mark.parametrize(("code", "kind"), BY_GRPC_CODE.items())
def test_grpc_status(code: str, kind: type[InferenceError]) -> None:
    error = error_from_grpc(code, "some words", url=URL, model="pets")
    assert type(error) is kind
    assert "some words" in str(error)


@pytest.mark.parametrize(
    ("status", "kind"),
    [*BY_HTTP_STATUS.items(), (302, ContractViolation), (418, RequestRejected), (599, ServerFault)],
)
def test_http_status(status: int, kind: type[InferenceError]) -> None:
    assert type(error_from_http(status, "some words", url=URL, model="pets")) is kind
    assert f"HTTP status {status}" in str(error_from_http(status, "", url=URL, model="pets"))


# What Triton 2.51 says, word for word, with the status that it says it with.
SAID_OVER_GRPC = [
    ("NOT_FOUND", "Request for unknown model: 'pets' is not found", ModelNotFound),
    ("UNAVAILABLE", "Request for unknown model: 'pets' has no available versions", ModelNotFound),
    ("NOT_FOUND", "Unable to find shared memory region: 'a'", ServerFault),
    ("UNAVAILABLE", "in ensemble 'pets', Exceeds maximum queue size", Overloaded),
    ("UNAVAILABLE", "[request id: 7] Exceeds maximum queue size", Overloaded),
    ("UNAVAILABLE", "in ensemble 'pets', Request timeout expired", Overloaded),
    ("UNAVAILABLE", "This protocol is restricted, expecting header 'triton-grpc-protocol-key'", AccessDenied),
    ("INTERNAL", "in ensemble 'pets', picture 0: not a JPEG, PNG, WebP or BMP picture", RequestRejected),
    ("INTERNAL", "in ensemble 'pets', parameter score_threshold is 2; expected 0 to 1", RequestRejected),
    ("INTERNAL", "in ensemble 'pets', boom", ServerFault),
    (
        "INVALID_ARGUMENT",
        "[request id: <id_unknown>] inference input 'IMAGE' data-type is 'FP32', but model expects 'BYTES'",
        RequestRejected,
    ),
    ("RESOURCE_EXHAUSTED", "CLIENT: Received message larger than max (9 vs. 4)", RequestRejected),
    (
        "UNAVAILABLE",
        "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: "
        "Failed to connect to remote host: Connection refused",
        ServerUnavailable,
    ),
]


@pytest.mark.parametrize(("code", "text", "kind"), SAID_OVER_GRPC)
def test_what_triton_says_over_grpc(code: str, text: str, kind: type[InferenceError]) -> None:
    assert type(error_from_grpc(code, text, url=URL, model="pets")) is kind


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (404, "Request for unknown model: 'pets' is not found", ModelNotFound),
        (400, "Model version not ready", ModelNotFound),
        (503, "in ensemble 'pets', Exceeds maximum queue size", Overloaded),
        (403, "This API is restricted, expecting header 'key'", AccessDenied),
        (500, "in ensemble 'pets', picture 0: has 0 bytes", RequestRejected),
        (503, "Server is not ready", ServerUnavailable),
        (504, "", DeadlineExceeded),
    ],
)
def test_what_triton_says_over_http(status: int, text: str, kind: type[InferenceError]) -> None:
    assert type(error_from_http(status, text, url="http://host:8000", model="pets")) is kind


def test_a_rejected_picture_reads_as_one_sentence() -> None:
    text = "in ensemble 'pets', picture 0: not a JPEG, PNG, WebP or BMP picture (3 bytes)."
    error = error_from_grpc("INTERNAL", text, url=URL, model="pets")
    assert str(error) == "the picture is rejected: not a JPEG, PNG, WebP or BMP picture (3 bytes)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[request id: 3] in ensemble 'pets', no room", "no room"),
        (
            "in ensemble 'pets', Failed to process the request(s) for model instance 's_0_0', message: "
            "RuntimeError: boom\n\nAt:\n  /repo/model.py(17): execute\n",
            "RuntimeError: boom",
        ),
        ("two\nlines.", "two lines"),
        ("UNAVAILABLE: ipv6:%5B::1%5D:8001: Socket closed", "Socket closed"),
    ],
)
def test_plain_text(text: str, expected: str) -> None:
    assert plain(text) == expected
