"""The picture with its detections drawn in."""

from __future__ import annotations

from detserve_core.pictures.drawing import annotated
from detserve_core.pictures.files import pixels_of
from detserve_rest.formats.found import Found
from detserve_rest.problems import Problem

_QUALITY = 90
_MOST_SIDE_PX = 65_500


def jpeg(found: Found) -> bytes:
    """A JPEG of the upright picture, boxes and labels drawn as ``detserve detect --save`` does.

    Raises:
        SourceError: the picture cannot be decoded here.
        Problem: a side is longer than JPEG has room for.
    """
    import cv2

    if max(found.wh) > _MOST_SIDE_PX:
        raise Problem(
            "bad-picture", f"a side is longer than the {_MOST_SIDE_PX} pixels that a JPEG has room for"
        )
    drawn = annotated(pixels_of(found.picture.encoded), found.detections)
    _, encoded = cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return encoded.tobytes()
