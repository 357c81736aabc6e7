"""How large a picture is, from its header alone."""

from __future__ import annotations

import struct
from io import BytesIO

from detserve_core.pictures.files import pixels_of
from detserve_core.pictures.upright import QUARTER_TURNS, exif_orientation

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_JPEG = b"\xff\xd8"
#: Markers of a JPEG's frame header, of whatever process; C4, C8 and CC among them are other things.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def picture_wh(encoded: bytes) -> tuple[int, int]:
    """Width and height in pixels of the upright picture, which boxes are in.

    Raises:
        SourceError: it cannot be decoded here either.
    """
    stored = _jpeg_wh(encoded) or _header_wh(encoded)
    if stored is None:
        pixels = pixels_of(encoded)  # what the server can decode and Pillow cannot
        return int(pixels.shape[1]), int(pixels.shape[0])
    width, height = stored
    return (height, width) if exif_orientation(encoded) in QUARTER_TURNS else (width, height)


def _jpeg_wh(encoded: bytes) -> tuple[int, int] | None:
    """Of most JPEGs, in a tenth of the time that Pillow takes, which reads their tables too; else None."""
    position = 2
    while encoded.startswith(_JPEG) and position + 9 <= len(encoded) and encoded[position] == 0xFF:
        if encoded[position + 1] in _FRAMES:
            height, width = struct.unpack_from(">HH", encoded, position + 5)
            return (width, height) if width and height else None
        position += 2 + int.from_bytes(encoded[position + 2 : position + 4], "big")
    return None


def _header_wh(encoded: bytes) -> tuple[int, int] | None:
    from PIL import Image

    try:
        with Image.open(BytesIO(encoded), formats=_FORMATS) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
