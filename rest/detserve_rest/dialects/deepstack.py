"""``POST /v1/vision/detection`` as DeepStack and CodeProject.AI speak it.

Their clients are Frigate's detector ``deepstack``, integrations of Home Assistant, and Blue Iris. A form has
the picture as ``image`` and may have ``min_confidence``; other fields, as ``api_key``, are passed over.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from detserve_client.engine.call_headers import call_headers
from detserve_core.detections import Detections
from detserve_core.errors import DetserveError
from detserve_rest.detection import detections_in
from detserve_rest.entrance import caller_of
from detserve_rest.pictures.body import media_type_of, not_empty, whole_body
from detserve_rest.pictures.form import FORM, Part, parts_of
from detserve_rest.pictures.size import picture_wh
from detserve_rest.problems import RETRY_AFTER_S, Problem, problem_of
from detserve_rest.service import service_of

#: CodeProject.AI's, and the least that Frigate looks at.
MIN_CONFIDENCE = 0.4


def deepstack_routes() -> list[BaseRoute]:
    """The one detector, and every detector by its name, as these products' "custom models"."""
    return [
        Route("/v1/vision/detection", _in_their_words(_detection), methods=["POST"]),
        Route("/v1/vision/custom/list", _in_their_words(_list), methods=["POST"]),
        Route("/v1/vision/custom/{name}", _in_their_words(_detection), methods=["POST"]),
    ]


async def _detection(request: Request) -> dict[str, Any]:
    started_s = time.perf_counter()
    parts = await _parts(request)
    picture = not_empty(_only(parts, "image").content)
    least = _min_confidence(parts)
    model = request.path_params.get("name") or await _chosen(request)
    asked_s = time.perf_counter()
    detections = await detections_in(request, model, picture, score=least)
    answered_s = time.perf_counter()
    predictions = _predictions(detections, picture_wh(picture))
    return {
        "success": True,
        "predictions": predictions,
        "count": len(predictions),
        "inferenceMs": round(1e3 * (answered_s - asked_s)),
        "processMs": round(1e3 * (time.perf_counter() - started_s)),
    }


async def _list(request: Request) -> dict[str, Any]:
    caller = caller_of(request)
    with call_headers(caller.headers):
        names = await service_of(request).detectors.names()
    return {"success": True, "models": [name for name in names if caller.may_use(name)]}


def _in_their_words(
    route: Callable[[Request], Awaitable[dict[str, Any]]],
) -> Callable[[Request], Awaitable[Response]]:
    """The route's content as JSON, and every refusal as ``success`` false with an ``error``."""

    async def answered(request: Request) -> Response:
        try:
            return _answer(200, await route(request))
        except Problem as error:
            problem = error
        except DetserveError as error:
            problem = problem_of(error)
        content = {"success": False, "error": problem.detail, "code": problem.status}
        return _answer(problem.status, content)

    return answered


def _answer(status: int, content: dict[str, Any]) -> Response:
    headers = {"retry-after": str(RETRY_AFTER_S)} if status == 503 else None
    return Response(orjson.dumps(content), status, headers, "application/json")


async def _parts(request: Request) -> list[Part]:
    media_type, options = media_type_of(request)
    if media_type != FORM:
        raise Problem("unsupported-media-type", f"the body is {media_type or 'of no type'}; expected {FORM}")
    return parts_of(await whole_body(request, service_of(request).settings.most_bytes), options)


def _only(parts: list[Part], name: str) -> Part:
    found = [part for part in parts if part.name == name]
    if len(found) != 1:
        raise Problem("bad-request", f"the form has {len(found)} parts named {name}; expected one")
    return found[0]


def _min_confidence(parts: list[Part]) -> float:
    if not any(part.name == "min_confidence" for part in parts):
        return MIN_CONFIDENCE
    text = _only(parts, "min_confidence").content
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise Problem("bad-parameter", f"min_confidence is {text[:80]!r}; expected a number from 0 to 1")
    return value


async def _chosen(request: Request) -> str:
    """The operator's detector, or the only one that the caller may use."""
    if (model := service_of(request).settings.deepstack_model) is not None:
        return model
    names = (await _list(request))["models"]
    if len(names) != 1:
        there = ", ".join(names) or "none"
        raise Problem(
            "model-not-found",
            f"there are {len(names)} detectors, {there}: ask for /v1/vision/custom/NAME, or start the "
            "service with --deepstack-model NAME",
        )
    return str(names[0])


def _predictions(detections: Detections, wh: tuple[int, int]) -> list[dict[str, Any]]:
    """Their rows; edges are whole pixels within the picture."""
    width, height = wh
    return [
        {
            "label": label,
            "confidence": score,
            "x_min": min(max(round(x1), 0), width),
            "y_min": min(max(round(y1), 0), height),
            "x_max": min(max(round(x2), 0), width),
            "y_max": min(max(round(y2), 0), height),
        }
        for (x1, y1, x2, y2), score, _, label, _ in detections
    ]
