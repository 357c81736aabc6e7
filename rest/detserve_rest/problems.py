"""Refusals as problem documents (RFC 9457): every error of this service, by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import orjson
from starlette.exceptions import HTTPException
from starlette.responses import Response

from detserve_core.errors import (
    AccessDenied,
    ContractViolation,
    DeadlineExceeded,
    DetserveError,
    ModelNotFound,
    Overloaded,
    RequestRejected,
    ServerFault,
    ServerUnavailable,
    SourceError,
)

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:detserve:problem:"
RETRY_AFTER_S = 1


class Kind(NamedTuple):
    """What a problem of one kind has in common with others of it."""

    status: int
    title: str


KINDS = {
    "bad-request": Kind(400, "The request cannot be read"),
    "bad-parameter": Kind(400, "A query parameter is wrong"),
    "not-known": Kind(401, "Nobody known asks"),  # the gateway's own, as others with its status
    "not-the-gateway": Kind(403, "The request did not come through the gateway"),
    "access-denied": Kind(403, "This caller may not do that"),
    "urls-not-allowed": Kind(403, "Pictures are not fetched from addresses here"),
    "not-found": Kind(404, "There is nothing at this path"),
    "model-not-found": Kind(404, "There is no such detector"),
    "method-not-allowed": Kind(405, "The path does not take this method"),
    "not-acceptable": Kind(406, "No format that the caller accepts is written here"),
    "too-slow": Kind(408, "The request did not arrive in time"),
    "too-large": Kind(413, "The request is too large"),
    "unsupported-media-type": Kind(415, "The body is of a type that is not read here"),
    "bad-picture": Kind(422, "The picture cannot be used"),
    "over-the-limit": Kind(429, "The caller is over its limit"),
    "headers-too-large": Kind(431, "The headers are too large"),
    "bug": Kind(500, "The service failed"),
    "server-fault": Kind(502, "The server behind this service failed"),
    "unavailable": Kind(503, "The server behind this service cannot be reached"),
    "overloaded": Kind(503, "There is more to do than can be done in time"),
    "time-out": Kind(504, "The server behind this service did not answer in time"),
}

_OF_ERRORS: tuple[tuple[type[DetserveError], str], ...] = (
    (ModelNotFound, "model-not-found"),
    (RequestRejected, "bad-picture"),
    (SourceError, "bad-picture"),
    (AccessDenied, "access-denied"),
    (Overloaded, "overloaded"),
    (DeadlineExceeded, "time-out"),
    (ServerUnavailable, "unavailable"),
    (ContractViolation, "server-fault"),
    (ServerFault, "server-fault"),
)


class Problem(Exception):
    """A request that is refused: ``kind`` is a key of :data:`KINDS`, ``detail`` one sentence."""

    def __init__(self, kind: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(kind, detail)
        self.kind, self.detail, self.headers = kind, detail, dict(headers or {})

    @property
    def status(self) -> int:
        """Of HTTP."""
        return KINDS[self.kind].status


class CallerGone(Exception):
    """The caller has closed the connection; nobody waits for an answer."""


def problem_of(error: Exception, method: str = "", path: str = "") -> Problem:
    """The problem that an exception is: one of the client's errors, of Starlette's, or a bug."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        return _of_starlette(error, method, path)
    if isinstance(error, RequestRejected) and "message larger than max" in str(error):
        return Problem("too-large", str(error))
    for kind, name in _OF_ERRORS:
        if isinstance(error, kind):
            return Problem(name, str(error))
    return Problem("bug", "this is a bug of the service; its log has the traceback")


def _of_starlette(error: HTTPException, method: str, path: str) -> Problem:
    """No such path, or not with this method."""
    if error.status_code == 405:
        said = dict(error.headers or {})
        expected = said.get("Allow", "another one")
        return Problem("method-not-allowed", f"{path} does not take {method}; expected {expected}", said)
    return Problem("not-found", f"there is nothing at {path}; /v1/openapi.json says what there is")


def answer_of(problem: Problem, *, instance: str, request_id: str) -> Response:
    """The answer: ``instance`` is the path that was asked for."""
    status, title = KINDS[problem.kind]
    document = {
        "type": TYPE_PREFIX + problem.kind,
        "title": title,
        "status": status,
        "detail": problem.detail,
        "instance": instance,
        "request_id": request_id,
    }
    headers = {"retry-after": str(RETRY_AFTER_S)} if status == 503 else {}
    body = orjson.dumps(document)
    return Response(body, status, {**headers, **problem.headers}, media_type=MEDIA_TYPE)
