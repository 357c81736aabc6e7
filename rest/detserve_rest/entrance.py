"""The entrance that every request takes: who calls, on whose behalf, and whether there is room."""

from __future__ import annotations

import hmac
import itertools
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from detserve_core.contract import GATEWAY_HEADER, SCOPE_HEADER
from detserve_rest.problems import CallerGone, Problem, answer_of, problem_of
from detserve_rest.service import Service

HEALTH = "/v1/health"
REQUEST_ID_HEADER = "x-request-id"
MOST_IN_FLIGHT = 128
_CALLER = "detserve.caller"
_EVERYTHING, _NOTHING = "*", ","
_SCOPE = re.compile(r"\*|,|(?:,[A-Za-z0-9_.-]{1,128})+,")
_ID_HEADER = REQUEST_ID_HEADER.encode()
_PROCESS, _NUMBERS = secrets.token_hex(8), itertools.count()
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_OURS = {name.encode(): name for name in (GATEWAY_HEADER, SCOPE_HEADER)}


@dataclass(frozen=True)
class Caller:
    """Whom a request is from.

    Attributes:
        request_id: the gateway's, or the caller's own, or one made here.
        scope: the detectors that may be used, as the gateway says it: ``*``, or ``,a,b,``.
    """

    request_id: str
    scope: str = _EVERYTHING

    @cached_property
    def headers(self) -> Mapping[str, str]:
        """What the server behind is told with each call."""
        return {SCOPE_HEADER: self.scope, REQUEST_ID_HEADER: self.request_id}

    def may_use(self, model: str) -> bool:
        """Whether the detector is among those of the caller's key."""
        return self.scope == _EVERYTHING or f",{model}," in self.scope

    def require(self, model: str) -> None:
        """Raise :class:`Problem` unless the caller may use the detector."""
        if not self.may_use(model):
            raise Problem("access-denied", f"this key is not for model {model!r}")


def caller_of(connection: HTTPConnection) -> Caller:
    """Whom the request is from."""
    caller: Caller = connection.scope[_CALLER]
    return caller


def guarded(app: ASGIApp, service: Service) -> ASGIApp:
    """``app`` behind the entrance. With a secret, only requests that show it are let in; health is open.

    What is beyond :data:`MOST_IN_FLIGHT` requests is refused: each holds a picture in memory. What ``app``
    raises becomes a problem document; a bug is raised again, for the log.
    """
    secret = service.settings.secret
    in_flight = 0

    async def let_in(scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        nonlocal in_flight
        given = _given(scope)
        _require_secret(given, secret, scope["path"])
        scope["app"], scope[_CALLER] = service, Caller(request_id, _scope(given, secret))
        if in_flight >= MOST_IN_FLIGHT:
            raise Problem("overloaded", f"{MOST_IN_FLIGHT} requests are in flight; send this one again")
        in_flight += 1
        try:
            await app(scope, receive, send)
        finally:
            in_flight -= 1

    async def entrance(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        request_id = _request_id(scope)
        send = _with_headers(send, request_id)
        try:
            await let_in(scope, receive, send, request_id)
        except (CallerGone, ClientDisconnect):
            return
        except Exception as error:
            problem = problem_of(error, scope["method"], scope["path"])
            answer = answer_of(problem, instance=scope["path"], request_id=request_id)
            await answer(scope, receive, send)
            if problem.kind == "bug":
                raise

    return entrance


def _given(scope: Scope) -> dict[str, list[str]]:
    """Of the headers, those that the entrance reads."""
    given: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        if name in _OURS:
            given.setdefault(_OURS[name], []).append(value.decode("latin-1"))
    return given


def _request_id(scope: Scope) -> str:
    """The one that is said, or one that no other request has: random numbers would be asked of the kernel."""
    said: list[str] = [value.decode("latin-1") for name, value in scope["headers"] if name == _ID_HEADER]
    if len(said) == 1 and _REQUEST_ID.fullmatch(said[0]):
        return said[0]
    return f"{_PROCESS}{next(_NUMBERS):016x}"


def _require_secret(given: Mapping[str, list[str]], secret: str | None, path: str) -> None:
    if secret is None or path == HEALTH or path.startswith(f"{HEALTH}/"):
        return
    shown = given.get(GATEWAY_HEADER, [])
    if len(shown) != 1 or not hmac.compare_digest(shown[0].encode("latin-1"), secret.encode()):
        raise Problem("not-the-gateway", "this service answers its gateway only; send the request there")


def _scope(given: Mapping[str, list[str]], secret: str | None) -> str:
    """What the gateway says; behind one that says nothing, no detector."""
    said = given.get(SCOPE_HEADER)
    if said is None:
        return _EVERYTHING if secret is None else _NOTHING
    if len(said) != 1 or not _SCOPE.fullmatch(said[0]):
        raise Problem("bad-request", f"the header {SCOPE_HEADER} is {said}; expected * or ,NAME,NAME,")
    return said[0]


def _with_headers(send: Send, request_id: str) -> Send:
    said = [(_ID_HEADER, request_id.encode()), (b"x-content-type-options", b"nosniff")]

    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *said]
        await send(message)

    return with_headers
