"""``GET /v1/models`` and ``GET /v1/models/NAME``."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from detserve_client.engine.call_headers import call_headers
from detserve_rest.detectors import Detectors
from detserve_rest.entrance import caller_of
from detserve_rest.service import service_of


async def models(request: Request) -> Response:
    """The detectors that the caller may use."""
    caller, detectors = caller_of(request), service_of(request).detectors
    with call_headers(caller.headers):
        names = [name for name in await detectors.names() if caller.may_use(name)]
        found = [await _summary(detectors, name) for name in names]
    return Response(orjson.dumps({"models": found}), media_type="application/json")


async def model(request: Request) -> Response:
    """One detector: what its card says to who calls it."""
    name = request.path_params["name"]
    caller = caller_of(request)
    caller.require(name)
    with call_headers(caller.headers):
        found = await _summary(service_of(request).detectors, name)
    return Response(orjson.dumps(found), media_type="application/json")


async def _summary(detectors: Detectors, name: str) -> dict[str, Any]:
    """What a caller may want to know of a detector."""
    card = (await detectors.of(name)).card
    return {
        "name": name,
        "labels": card.labels,
        "family": card.family,
        "input": {"width": card.input_wh[0], "height": card.input_wh[1]},
        "precision": await detectors.precision(name),
        "thresholds": {
            "score": card.thresholds.score,
            "iou": card.thresholds.iou,
            "max": card.thresholds.max_detections,
        },
        "origin": {"source": card.origin.source, "license": card.origin.license},
    }
