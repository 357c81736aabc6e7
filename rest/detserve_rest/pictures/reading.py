"""A request's picture, in whichever way it was sent."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from detserve_rest.pictures.body import media_type_of, not_empty, whole_body
from detserve_rest.pictures.form import FORM, parts_of
from detserve_rest.pictures.json_body import picture_in_json
from detserve_rest.problems import Problem
from detserve_rest.service import Settings

_RAW = ("", "application/octet-stream")
_JSON = "application/json"


@dataclass(frozen=True)
class Picture:
    """An encoded picture; ``name`` is that of its file, where the caller says it."""

    encoded: bytes
    name: str = ""


async def picture_of(request: Request, settings: Settings) -> Picture:
    """The picture: a form's ``image``, the body itself, or JSON's ``image`` or ``url``.

    Raises:
        Problem: there is none, or more than one, or it is too large, or of another type.
    """
    media_type, options = media_type_of(request)
    if media_type == FORM:
        return picture_in_form(await whole_body(request, settings.most_bytes), options)
    if media_type == _JSON:
        return Picture(await picture_in_json(await whole_body(request, settings.most_bytes), settings))
    if media_type in _RAW or media_type.startswith("image/"):
        return Picture(not_empty(await whole_body(request, settings.most_bytes)))
    raise Problem(
        "unsupported-media-type",
        f"the body is {media_type}; send the picture as a form (curl -F image=@x.jpg), as it is with its "
        f"own content-type (image/jpeg), or in {_JSON}",
    )


def picture_in_form(body: bytes, options: dict[str, str]) -> Picture:
    """The form's one part ``image``."""
    parts = parts_of(body, options)
    strange = [part.name for part in parts if part.name != "image"]
    if strange:
        raise Problem("bad-request", f"the form has a part {strange[0]!r}; expected image alone")
    if len(parts) != 1:
        raise Problem("bad-request", f"the form has {len(parts)} parts named image; expected one")
    return Picture(not_empty(parts[0].content), parts[0].file_name)
