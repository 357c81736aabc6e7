"""``GET /v1/health``, ``/v1/health/live`` and ``/v1/health/ready``: for probes, which have no key."""

from __future__ import annotations

import orjson
from starlette.requests import Request
from starlette.responses import Response

from detserve_rest.service import service_of


async def live(_request: Request) -> Response:
    """Whether this service answers."""
    return _answer(200, {"live": True})


async def ready(request: Request) -> Response:
    """Whether the server behind takes requests; status 503 where it does not."""
    is_ready = await service_of(request).detectors.ready()
    return _answer(200 if is_ready else 503, {"live": True, "ready": is_ready})


def _answer(status: int, content: dict[str, bool]) -> Response:
    return Response(orjson.dumps(content), status, {"cache-control": "no-store"}, "application/json")
