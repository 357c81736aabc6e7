"""The ways in which other products' clients ask for detections."""

from __future__ import annotations

from starlette.routing import BaseRoute

from detserve_rest.dialects.deepstack import deepstack_routes


def dialect_routes() -> list[BaseRoute]:
    """The routes of every dialect."""
    return [*deepstack_routes()]
