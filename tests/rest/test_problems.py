"""Every error of the client is a problem that a caller can act on."""

from __future__ import annotations

import json

import pytest

from detserve_core import errors
from detserve_rest.problems import KINDS, Problem, answer_of, problem_of


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        (errors.RequestRejected("the picture is rejected: damaged"), "bad-picture", 422),
        (errors.RequestRejected("message larger than max (16777216 bytes)"), "too-large", 413),
        (errors.SourceError("x is empty"), "bad-picture", 422),
        (errors.ModelNotFound("no model"), "model-not-found", 404),
        (errors.AccessDenied("not for you"), "access-denied", 403),
        (errors.Overloaded("exceeds maximum queue size"), "overloaded", 503),
        (errors.ServerUnavailable("refused"), "unavailable", 503),
        (errors.DeadlineExceeded("no answer"), "time-out", 504),
        (errors.ServerFault("failed"), "server-fault", 502),
        (errors.ContractViolation("no box"), "server-fault", 502),
        (errors.MissingExtra("cv2", "draw"), "bug", 500),
        (KeyError("x"), "bug", 500),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_the_problem_of_an_error(error: Exception, kind: str, status: int) -> None:
    problem = problem_of(error)
    assert (problem.kind, problem.status) == (kind, status)
    assert kind == "bug" or problem.detail == str(error)


@pytest.mark.parametrize("kind", KINDS)
def test_the_document(kind: str) -> None:
    answer = answer_of(Problem(kind, "why"), instance="/v1/x", request_id="7")
    document = json.loads(bytes(answer.body))
    assert document["type"] == f"urn:detserve:problem:{kind}"
    assert document["status"] == answer.status_code
    assert (document["detail"], document["instance"], document["request_id"]) == ("why", "/v1/x", "7")
    assert answer.media_type == "application/problem+json"
    assert ("retry-after" in answer.headers) == (answer.status_code == 503)
