"""The application: routes put together, a connection for as long as it runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp

from detserve_rest.detect import detect
from detserve_rest.detectors import Detectors
from detserve_rest.dialects import dialect_routes
from detserve_rest.entrance import HEALTH, guarded
from detserve_rest.health import live, ready
from detserve_rest.models import model, models
from detserve_rest.openapi import openapi
from detserve_rest.pages import page_routes
from detserve_rest.service import Service, Settings


def application(settings: Settings) -> ASGIApp:
    """The ASGI application in front of a server, which is not asked before a request comes."""
    service = Service(settings, Detectors(settings.endpoint))

    @asynccontextmanager
    async def connected(_app: object) -> AsyncIterator[None]:
        yield
        await service.detectors.close()

    # Not Starlette: its layers for errors and middleware would take as long as the rest of the way.
    return guarded(Router(_routes(), redirect_slashes=False, lifespan=connected), service)


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
