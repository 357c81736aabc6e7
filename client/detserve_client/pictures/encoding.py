"""From what a user holds in hands to the encoded picture that goes over the wire."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from detserve_core.errors import MissingExtra, SourceError

if TYPE_CHECKING:
    from PIL.Image import Image

PictureSource: TypeAlias = "str | Path | bytes | NDArray[np.uint8] | Image"
"""A path, an encoded picture, BGR pixels uint8 ``(h, w, 3)``, or a PIL image."""

_JPEG_QUALITY = 95
_URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)


def encoded_picture(source: PictureSource) -> bytes:
    """The encoded picture of any source.

    Files and bytes go to the server as they are. Pixels and PIL images become a JPEG of quality 95, without
    EXIF: their boxes are in the pixels handed in.

    Raises:
        SourceError: a file cannot be read, or the source is of another type, shape or dtype.
        MissingExtra: pixels were given and OpenCV is not installed.
    """
    if isinstance(source, str) and _URL.match(source):
        raise SourceError(f"{source} is a URL; expected a path: fetch the picture and hand over its bytes")
    if isinstance(source, (str, Path)):
        return _from_path(Path(source))
    if isinstance(source, bytes):
        return _not_empty(source, "the picture")
    if isinstance(source, np.ndarray):
        return _from_pixels(source)
    image_type: Any = getattr(sys.modules.get("PIL.Image"), "Image", None)
    if image_type is not None and isinstance(source, image_type):
        return _from_pil(source)
    raise SourceError(
        f"a picture source of type {type(source).__name__} came; expected a path, bytes, "
        "a uint8 array (h, w, 3) in BGR or a PIL image"
    )


def _from_path(path: Path) -> bytes:
    try:
        return _not_empty(path.read_bytes(), str(path))
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from None


def _not_empty(encoded: bytes, what: str) -> bytes:
    if not encoded:
        raise SourceError(f"{what} is empty; expected a JPEG, PNG, WebP or BMP")
    return encoded


def checked_pixels(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """The array itself, BGR pixels uint8 ``(h, w, 3)``.

    Raises:
        SourceError: it is of another shape or dtype.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise SourceError(f"an array {pixels.dtype} {pixels.shape} came; expected uint8 (h, w, 3) in BGR")
    return pixels


def _from_pixels(pixels: NDArray[Any]) -> bytes:
    checked_pixels(pixels)
    try:
        import cv2
    except ImportError:
        raise MissingExtra("opencv-python", "draw") from None
    try:
        done, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    except cv2.error:
        done = False
    if not done:
        raise SourceError(
            f"an array {pixels.shape} cannot become a JPEG; expected sides of at most 65500 pixels"
        )
    return encoded.tobytes()


def _from_pil(image: Image) -> bytes:
    buffer = io.BytesIO()
    try:
        image.convert("RGB").save(buffer, "JPEG", quality=_JPEG_QUALITY, exif=b"")
    except (OSError, ValueError) as error:
        raise SourceError(f"a PIL image {image.size} cannot become a JPEG: {error}") from None
    return buffer.getvalue()
