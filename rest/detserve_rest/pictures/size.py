"""How large a picture is, from its header alone."""

from __future__ import annotations

from io import BytesIO

from detserve_core.pictures.files import pixels_of
from detserve_core.pictures.upright import QUARTER_TURNS, exif_orientation

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")


def picture_wh(encoded: bytes) -> tuple[int, int]:
    """Width and height in pixels of the upright picture, which boxes are in.

    Raises:
        SourceError: it cannot be decoded here either.
    """
    from PIL import Image

    try:
        with Image.open(BytesIO(encoded), formats=_FORMATS) as image:
            width, height = image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        pixels = pixels_of(encoded)  # what the server can decode and Pillow cannot
        return int(pixels.shape[1]), int(pixels.shape[0])
    return (height, width) if exif_orientation(encoded) in QUARTER_TURNS else (width, height)
