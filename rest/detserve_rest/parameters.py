"""What a request's query and its header Accept ask for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl

from starlette.requests import Request

from detserve_rest.formats import FORMATS
from detserve_rest.problems import Problem

#: No card allows more detections.
MOST_DETECTIONS = 1000
_NAMES = ("score", "iou", "max", "format")
_NUMBER = re.compile(r"[+-]?(\d{1,20}(\.\d{0,40})?|\.\d{1,40})([eE][+-]?\d{1,3})?", re.ASCII)
_WHOLE = re.compile(r"\d{1,9}", re.ASCII)
_ANY = ("*/*", "application/*", "application/json")


@dataclass(frozen=True)
class Wanted:
    """What one request overrides of the card, and in which of :data:`FORMATS` it wants the answer."""

    score: float | None = None
    iou: float | None = None
    most: int | None = None
    format: str = "json"


def wanted_by(request: Request) -> Wanted:
    """What the request asks for; the query's format goes before the header Accept.

    Raises:
        Problem: a parameter is unknown, given twice or out of range, or no format is acceptable.
    """
    given = _given(request.scope["query_string"])
    return Wanted(
        score=_share(given, "score"),
        iou=_share(given, "iou"),
        most=_most(given),
        format=_format(given) or _accepted(request.headers.getlist("accept")),
    )


def _given(query: bytes) -> dict[str, str]:
    if not query:
        return {}
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=16)
    except ValueError:
        raise _wrong("the query cannot be read; expected NAME=VALUE&NAME=VALUE") from None
    given: dict[str, str] = {}
    for name, value in pairs:
        if name not in _NAMES:
            raise _wrong(f"there is no parameter {name[:80]!r}; there are {', '.join(_NAMES)}")
        if name in given:
            raise _wrong(f"{name} is given twice; expected one value")
        given[name] = value
    return given


def _share(given: dict[str, str], name: str) -> float | None:
    text = given.get(name)
    if text is None:
        return None
    value = float(text) if _NUMBER.fullmatch(text) else -1.0
    if not 0 <= value <= 1:
        raise _wrong(f"{name} is {text[:80]!r}; expected a number from 0 to 1")
    return value


def _most(given: dict[str, str]) -> int | None:
    text = given.get("max")
    if text is None:
        return None
    value = int(text) if _WHOLE.fullmatch(text) else 0
    if not 1 <= value <= MOST_DETECTIONS:
        raise _wrong(f"max is {text[:80]!r}; expected a whole number from 1 to {MOST_DETECTIONS}")
    return value


def _format(given: dict[str, str]) -> str | None:
    text = given.get("format")
    if text is not None and text not in FORMATS:
        raise _wrong(f"format is {text[:80]!r}; expected one of {', '.join(FORMATS)}")
    return text


def _accepted(headers: list[str]) -> str:
    """The format that Accept likes most; of several liked as much, the one named first."""
    if not headers or headers == ["*/*"]:
        return "json"
    liked: list[tuple[float, str]] = []
    for entry in ",".join(headers).split(","):
        media_type, *options = (part.strip().lower() for part in entry.split(";"))
        quality = next((option[2:] for option in options if option.startswith("q=")), "1")
        weight = float(quality) if _NUMBER.fullmatch(quality) else 0.0
        name = "json" if media_type in _ANY else _of_media_type(media_type)
        if name is not None and weight > 0:
            liked.append((weight, name))
    if not liked:
        types = ", ".join(dict.fromkeys(known.media_type for known in FORMATS.values()))
        raise Problem("not-acceptable", f"the header accept names no format of {types}; or give ?format=")
    return max(liked, key=lambda one: one[0])[1]


def _of_media_type(media_type: str) -> str | None:
    for name, known in FORMATS.items():
        kind = known.media_type.partition(";")[0]
        if media_type in (kind, f"{kind.partition('/')[0]}/*"):
            return name
    return None


def _wrong(detail: str) -> Problem:
    return Problem("bad-parameter", detail)
