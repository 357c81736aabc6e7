"""``GET /v1/openapi.json``: what this service takes and answers, as OpenAPI 3.1."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import version
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from detserve_rest.detectors import NAME
from detserve_rest.formats import FORMATS
from detserve_rest.parameters import MOST_DETECTIONS
from detserve_rest.pictures.form import FORM
from detserve_rest.problems import KINDS, MEDIA_TYPE, TYPE_PREFIX

_RAW_TYPES = ("image/jpeg", "image/png", "image/webp", "image/bmp", "application/octet-stream")
_COUNT = {"type": "integer", "minimum": 0}
_NUMBER = {"type": "number"}
_TEXT = {"type": "string"}


async def openapi(_request: Request) -> Response:
    """The document."""
    return Response(_written(), media_type="application/json")


@lru_cache(1)
def _written() -> bytes:
    return orjson.dumps(document())


def document() -> dict[str, Any]:
    """The OpenAPI document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "detserve",
            "version": version("detserve"),
            "description": "Objects in pictures, found by the detectors that this service has.",
        },
        "paths": {
            "/v1/models/{name}/detect": {"post": _detect()},
            "/v1/models": {"get": _models()},
            "/v1/models/{name}": {"get": _model()},
            "/v1/health": {"get": _ready("health")},
            "/v1/health/ready": {"get": _ready("ready")},
            "/v1/health/live": {"get": _live()},
            "/v1/openapi.json": {"get": _self()},
            "/v1/vision/detection": {"post": _deepstack("deepstack", named=False)},
            "/v1/vision/custom/{name}": {"post": _deepstack("deepstackCustom", named=True)},
            "/v1/vision/custom/list": {"post": _deepstack_list()},
        },
        "components": {"schemas": _schemas()},
    }


def _detect() -> dict[str, Any]:
    return {
        "operationId": "detect",
        "summary": "Find objects in a picture",
        "parameters": [_name_parameter(), *_query_parameters()],
        "requestBody": {
            "required": True,
            "description": "The picture: JPEG, PNG, WebP or BMP.",
            "content": {
                FORM: {"schema": _form(["image"])},
                **{media_type: {"schema": {}} for media_type in _RAW_TYPES},
                "application/json": {"schema": _ref("PictureInJson")},
            },
        },
        "responses": {
            "200": {
                "description": "The detections, best first.",
                "headers": {"server-timing": {"description": "Milliseconds of each stage.", "schema": _TEXT}},
                "content": _format_contents(),
            },
            **_problems(400, 403, 404, 406, 408, 413, 415, 422, 502, 503, 504),
        },
    }


def _query_parameters() -> list[dict[str, Any]]:
    share = {"type": "number", "minimum": 0, "maximum": 1}
    described = (
        ("score", "Least score. Without it: the card's.", share),
        ("iou", "Most overlap of two boxes of a class. Without it: the card's.", share),
        (
            "max",
            "Most detections; a detector may allow fewer than the schema. Without it: the card's.",
            {"type": "integer", "minimum": 1, "maximum": MOST_DETECTIONS},
        ),
        ("format", "Form of the answer. Without it: by the header Accept.", {"enum": list(FORMATS)}),
    )
    return [
        {"name": name, "in": "query", "description": description, "schema": schema}
        for name, description, schema in described
    ]


def _format_contents() -> dict[str, Any]:
    found = {"anyOf": [_ref("Detections"), _ref("Coco")]}
    return {
        "application/json": {"schema": found},
        "image/jpeg": {"schema": {}},
        "text/plain": {"schema": _TEXT},
        "application/geo+json": {"schema": _ref("GeoJson")},
    }


def _models() -> dict[str, Any]:
    listed = _object({"models": {"type": "array", "items": _ref("Model")}})
    return {
        "operationId": "models",
        "summary": "List the detectors that the caller may use",
        "responses": {"200": _json("The detectors.", listed), **_problems(403, 502, 503, 504)},
    }


def _model() -> dict[str, Any]:
    return {
        "operationId": "model",
        "summary": "Describe one detector",
        "parameters": [_name_parameter()],
        "responses": {"200": _json("The detector.", _ref("Model")), **_problems(403, 404, 502, 503, 504)},
    }


def _ready(operation: str) -> dict[str, Any]:
    return {
        "operationId": operation,
        "summary": "Whether the server behind this service takes requests",
        "responses": {"200": _json("It does.", _ref("Health")), "503": _json("It does not.", _ref("Health"))},
    }


def _live() -> dict[str, Any]:
    return {
        "operationId": "live",
        "summary": "Whether this service answers",
        "responses": {"200": _json("It does.", _object({"live": {"type": "boolean"}}))},
    }


def _self() -> dict[str, Any]:
    return {
        "operationId": "openapi",
        "summary": "This document",
        "responses": {"200": _json("OpenAPI 3.1.", {"type": "object"})},
    }


def _deepstack(operation: str, *, named: bool) -> dict[str, Any]:
    form = _form(["image"])
    form["properties"]["min_confidence"] = {"type": "number", "minimum": 0, "maximum": 1}
    return {
        "operationId": operation,
        "summary": "Find objects, as DeepStack and CodeProject.AI answer",
        **({"parameters": [_name_parameter()]} if named else {}),
        "requestBody": {
            "required": True,
            "content": {FORM: {"schema": {**form, "additionalProperties": True}}},
        },
        "responses": {
            "200": _json("The predictions.", _ref("DeepstackFound")),
            **_deepstack_refusals(400, 403, 404, 408, 413, 415, 422, 502, 503, 504),
        },
    }


def _deepstack_list() -> dict[str, Any]:
    listed = _object({"success": {"const": True}, "models": {"type": "array", "items": _TEXT}})
    return {
        "operationId": "deepstackList",
        "summary": "List the detectors, as DeepStack and CodeProject.AI list custom models",
        "responses": {
            "200": _json("The detectors.", listed),
            **_deepstack_refusals(403, 502, 503, 504),
        },
    }


def _schemas() -> dict[str, Any]:
    pixel = {"type": "integer", "minimum": 0}
    size = _object({"width": pixel, "height": pixel})
    return {
        "PictureInJson": {
            "oneOf": [
                _object(
                    {"image": {"type": "string", "format": "byte", "contentEncoding": "base64"}}, closed=True
                ),
                _object({"url": {"type": "string", "format": "uri"}}, closed=True),
            ]
        },
        "Detections": _object(
            {
                "detections": {"type": "array", "items": _ref("Detection")},
                "image": size,
                "timings": {"type": "object", "additionalProperties": _NUMBER},
            }
        ),
        "Detection": _object(
            {"label": _TEXT, "class_id": _COUNT, "score": _NUMBER, "box": _numbers(4)},
        ),
        "Coco": _object({name: {"type": "array"} for name in ("images", "categories", "annotations")}),
        "GeoJson": _object({"type": {"const": "FeatureCollection"}, "features": {"type": "array"}}),
        "Model": _object(
            {
                "name": _TEXT,
                "labels": {"type": "array", "items": _TEXT},
                "family": _TEXT,
                "input": size,
                "precision": {"type": ["string", "null"]},
                "thresholds": _object({"score": _NUMBER, "iou": _NUMBER, "max": _COUNT}),
                "origin": _object({"source": _TEXT, "license": _TEXT}),
            }
        ),
        "Health": _object({"live": {"type": "boolean"}, "ready": {"type": "boolean"}}),
        "DeepstackFound": _object(
            {
                "success": {"const": True},
                "predictions": {
                    "type": "array",
                    "items": _object(
                        {
                            "label": _TEXT,
                            "confidence": _NUMBER,
                            **dict.fromkeys(("x_min", "y_min", "x_max", "y_max"), pixel),
                        }
                    ),
                },
            }
        ),
        "DeepstackRefusal": _object({"success": {"const": False}, "error": _TEXT, "code": _COUNT}),
        "Problem": _object(
            {
                "type": {"enum": [TYPE_PREFIX + kind for kind in KINDS]},
                "title": _TEXT,
                "status": _COUNT,
                "detail": _TEXT,
                "instance": _TEXT,
                "request_id": _TEXT,
            }
        ),
    }


def _name_parameter() -> dict[str, Any]:
    return {
        "name": "name",
        "in": "path",
        "required": True,
        "description": "Name of the detector.",
        "schema": {"type": "string", "pattern": f"^{NAME}$"},
    }


def _form(names: list[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            name: {"type": "string", "contentMediaType": "application/octet-stream"} for name in names
        },
        "required": names,
        "additionalProperties": False,
    }


def _problems(*statuses: int) -> dict[str, Any]:
    found = {}
    for status in statuses:
        titles = [kind.title for kind in KINDS.values() if kind.status == status]
        content = {MEDIA_TYPE: {"schema": _ref("Problem")}}
        answer: dict[str, Any] = {"description": "; or: ".join(titles), "content": content}
        if status == 503:
            answer["headers"] = {"retry-after": {"description": "Seconds.", "schema": {"type": "integer"}}}
        found[str(status)] = answer
    return found


def _deepstack_refusals(*statuses: int) -> dict[str, Any]:
    return {str(status): _json("A refusal.", _ref("DeepstackRefusal")) for status in statuses}


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _object(properties: dict[str, Any], *, closed: bool = False) -> dict[str, Any]:
    extra = {"additionalProperties": False} if closed else {}
    return {"type": "object", "properties": properties, "required": list(properties), **extra}


def _numbers(count: int) -> dict[str, Any]:
    return {"type": "array", "items": _NUMBER, "minItems": count, "maxItems": count}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}
