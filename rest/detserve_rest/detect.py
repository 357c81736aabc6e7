"""``POST /v1/models/NAME/detect``."""

from __future__ import annotations

import asyncio
import time

from starlette.requests import Request
from starlette.responses import Response

from detserve_rest.detection import detections_in
from detserve_rest.entrance import caller_of
from detserve_rest.formats import FORMATS
from detserve_rest.formats.found import Format, Found
from detserve_rest.parameters import wanted_by
from detserve_rest.pictures.reading import picture_of
from detserve_rest.pictures.size import picture_wh
from detserve_rest.service import service_of


async def detect(request: Request) -> Response:
    """The detections of the request's picture, in the format that it wants."""
    started_s = time.perf_counter()
    service, model = service_of(request), request.path_params["name"]
    caller_of(request).require(model)
    wanted = wanted_by(request)
    picture = await picture_of(request, service.settings)
    read_s = time.perf_counter()
    detections = await detections_in(
        request, model, picture.encoded, score=wanted.score, iou=wanted.iou, most=wanted.most
    )
    timings_ms = {"reading": _ms(read_s - started_s), "detector": _ms(time.perf_counter() - read_s)}
    found = Found(detections, picture, picture_wh(picture.encoded), timings_ms)
    chosen = FORMATS[wanted.format]
    if chosen.slow:
        async with service.drawing:
            body = await _slowly(chosen, found, timings_ms)
    else:
        body = chosen.write(found)
    headers = {"server-timing": ", ".join(f"{name};dur={ms}" for name, ms in timings_ms.items())}
    return Response(body, headers=headers, media_type=chosen.media_type)


async def _slowly(chosen: Format, found: Found, timings_ms: dict[str, float]) -> bytes:
    started_s = time.perf_counter()
    body = await asyncio.to_thread(chosen.write, found)
    timings_ms["drawing"] = _ms(time.perf_counter() - started_s)
    return body


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 3)
