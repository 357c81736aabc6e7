"""From what a user holds in hands to the encoded picture that goes over the wire."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeGuard, TypeVar

import numpy as np
from numpy.typing import NDArray

from detserve_client.pictures.download import TIMEOUT_S, download
from detserve_core.errors import MissingExtra, SourceError
from detserve_core.pictures.files import checked_pixels, rgb_image

if TYPE_CHECKING:
    from PIL.Image import Image


class ReadableFile(Protocol):
    """A file opened for reading bytes, or what reads like one."""

    def read(self) -> bytes:
        """Everything up to the end."""


PictureSource: TypeAlias = "str | Path | bytes | bytearray | memoryview | NDArray[Any] | Image | ReadableFile"
"""A path, a URL, an encoded picture or a file of one, BGR pixels uint8 ``(h, w, 3)``, or a PIL image."""

_Source = TypeVar("_Source")
_JPEG_QUALITY = 95
_ONE = (str, Path, bytes, bytearray, memoryview, np.ndarray)
_URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)


def encoded_picture(source: PictureSource, url_timeout_s: float = TIMEOUT_S) -> bytes:
    """The encoded picture of any source.

    Files, bytes and what a URL leads to go to the server as they are. Pixels and PIL images become a JPEG of
    quality 95, without EXIF: their boxes are in the pixels handed in.

    Raises:
        SourceError: a file cannot be read, a URL cannot be fetched, or the source is of another type, shape
            or dtype.
        MissingExtra: pixels were given and OpenCV is not installed.
    """
    if is_url(source):
        return _not_empty(download(str(source), timeout_s=min(url_timeout_s, TIMEOUT_S)), str(source))
    if isinstance(source, (str, Path)):
        return _from_path(Path(source))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _not_empty(bytes(source), "the picture")
    if isinstance(source, np.ndarray):
        return _from_pixels(source)
    if _is_pil(source):
        return _from_pil(source)
    if hasattr(source, "read"):
        return _from_file(source)
    raise SourceError(
        f"got a picture source of type {type(source).__name__}; expected a path, a URL, bytes, a file opened "
        "for reading bytes, a uint8 array (h, w, 3) in BGR or a PIL image"
    )


def is_url(source: object) -> bool:
    """Whether it is a text that begins as a URL does."""
    return isinstance(source, str) and _URL.match(source) is not None


def is_one_picture(source: object) -> TypeGuard[PictureSource]:
    """Whether it is one picture, not several; a folder counts as one."""
    return isinstance(source, _ONE) or hasattr(source, "read") or _is_pil(source)


def from_rgb(source: _Source) -> _Source:
    """Pixels in RGB as pixels in BGR; anything else as it is."""
    if isinstance(source, np.ndarray) and source.ndim == 3:
        return np.ascontiguousarray(source[:, :, ::-1])  # type: ignore[return-value]
    return source


def _is_pil(source: object) -> TypeGuard[Image]:
    image_type: Any = getattr(sys.modules.get("PIL.Image"), "Image", None)
    return image_type is not None and isinstance(source, image_type)


def _from_file(file: ReadableFile) -> bytes:
    name = getattr(file, "name", "the file object")
    try:
        encoded = file.read()
    except (OSError, ValueError) as error:
        raise SourceError(f"{name} cannot be read: {error}") from None
    if not isinstance(encoded, bytes):
        raise SourceError(f'{name} gives {type(encoded).__name__}; open it for bytes: open(..., "rb")')
    return _not_empty(encoded, str(name))


def _from_path(path: Path) -> bytes:
    try:
        return _not_empty(path.read_bytes(), str(path))
    except FileNotFoundError:
        pattern = f'; for a pattern: detect(Path(".").glob({path.name!r}))' if "*" in path.name else ""
        raise SourceError(f"{path} cannot be read: No such file or directory{pattern}") from None
    except IsADirectoryError:
        raise SourceError(
            f"{path} is a folder; expected a picture here: detect({str(path)!r}) takes a folder alone"
        ) from None
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # a NUL in it, or text that no file system can hold
        raise SourceError(f"{str(path)!r} is no path of a file: {error}") from None


def _not_empty(encoded: bytes, what: str) -> bytes:
    if not encoded:
        raise SourceError(f"{what} is empty; expected a JPEG, PNG, WebP or BMP")
    return encoded


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
        rgb_image(image).save(buffer, "JPEG", quality=_JPEG_QUALITY, exif=b"")
    except (OSError, ValueError) as error:
        raise SourceError(f"a PIL image {image.size} cannot become a JPEG: {error}") from None
    return buffer.getvalue()
