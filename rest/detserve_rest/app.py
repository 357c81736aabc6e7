"""The application: routes put together, errors as problems, a connection for as long as it runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from detserve_core.errors import DetserveError
from detserve_rest.detect import detect
from detserve_rest.detectors import Detectors
from detserve_rest.dialects import dialect_routes
from detserve_rest.entrance import HEALTH, caller_of, guarded
from detserve_rest.health import live, ready
from detserve_rest.models import model, models
from detserve_rest.openapi import openapi
from detserve_rest.pages import page_routes
from detserve_rest.problems import CallerGone, Problem, answer_of, problem_of
from detserve_rest.service import Service, Settings

_CLIENT_CLOSED_REQUEST = 499


def application(settings: Settings) -> ASGIApp:
    """The ASGI application in front of a server, which is not asked before a request comes."""

    @asynccontextmanager
    async def connected(app: Starlette) -> AsyncIterator[None]:
        detectors = Detectors(settings.endpoint)
        app.state.service = Service(settings, detectors)
        try:
            yield
        finally:
            await detectors.close()

    handlers: dict[Any, Any] = {
        Problem: _problem,
        DetserveError: _error,
        HTTPException: _http_error,
        CallerGone: _nobody_waits,
        ClientDisconnect: _nobody_waits,
        Exception: _bug,
    }
    app = Starlette(routes=_routes(), exception_handlers=handlers, lifespan=connected)
    app.router.redirect_slashes = False
    return guarded(app, settings.secret)


def _routes() -> list[BaseRoute]:
    return [
        Route("/v1/models/{name}/detect", detect, methods=["POST"]),
        Route("/v1/models/{name}", model),
        Route("/v1/models", models),
        Route("/v1/openapi.json", openapi),
        Route(HEALTH, ready),
        Route(f"{HEALTH}/ready", ready),
        Route(f"{HEALTH}/live", live),
        *dialect_routes(),
        *page_routes(),
    ]


async def _problem(request: Request, problem: Problem) -> Response:
    return answer_of(problem, instance=request.url.path, request_id=caller_of(request).request_id)


async def _error(request: Request, error: DetserveError) -> Response:
    return await _problem(request, problem_of(error))


async def _http_error(request: Request, error: HTTPException) -> Response:
    """What Starlette refuses by itself: no such path, or not with this method."""
    path = request.url.path
    if error.status_code == 405:
        said = dict(error.headers or {})
        allowed = said.get("Allow", "")
        return await _problem(
            request,
            Problem("method-not-allowed", f"{path} does not take {request.method}; expected {allowed}", said),
        )
    return await _problem(request, Problem("not-found", f"there is nothing at {path}; see /v1/openapi.json"))


async def _nobody_waits(_request: Request, _error: Exception) -> Response:
    return Response(status_code=_CLIENT_CLOSED_REQUEST)


async def _bug(request: Request, _error: Exception) -> Response:
    """The traceback is in the log."""
    return await _problem(request, Problem("bug", "this is a bug of the service; its log has the traceback"))
