"""Pictures as files: read upright, written whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detserve_core.errors import OutputError, SourceError
from detserve_core.machine.whole_files import write_whole
from detserve_core.pictures.opencv_log import silent_opencv
from detserve_core.pictures.upright import exif_orientation, upright

if TYPE_CHECKING:
    from PIL.Image import Image

WRITTEN_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


def upright_pixels(path: Path) -> NDArray[np.uint8]:
    """Read a picture as BGR uint8 ``(h, w, 3)``, upright as its EXIF says: the pixels that boxes are in.

    Raises:
        SourceError: the file cannot be read or is not a picture.
    """
    try:
        encoded = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # a NUL in it, or text that no file system can hold
        raise SourceError(f"{str(path)!r} is no path of a file: {error}") from None
    return _decoded(encoded, str(path))


def pixels_of(picture: Path | str | bytes | NDArray[Any] | Image) -> NDArray[np.uint8]:
    """BGR uint8 ``(h, w, 3)`` of a path, an encoded picture, such pixels themselves or a PIL image.

    Raises:
        SourceError: the file cannot be read, it is not a picture, or something else was given.
    """
    if isinstance(picture, (str, Path)):
        return upright_pixels(Path(picture))
    if isinstance(picture, bytes):
        return _decoded(picture, "the picture")
    if isinstance(picture, np.ndarray):
        return checked_pixels(picture)
    if not hasattr(picture, "convert"):
        raise SourceError(
            f"got a picture of type {type(picture).__name__}; expected a path, bytes, a uint8 array "
            "(h, w, 3) in BGR or a PIL image"
        )
    try:
        return np.ascontiguousarray(np.asarray(rgb_image(picture), np.uint8)[:, :, ::-1])
    except (OSError, ValueError, SyntaxError) as error:  # Pillow reads a file when its pixels are asked for
        raise SourceError(f"a PIL image {picture.size} has no pixels here: {error}") from None


def rgb_image(image: Image) -> Image:
    """A PIL image in RGB, of 16 bits the upper eight, as decoders of the file give it.

    Raises:
        SourceError: its pixels are integers of 32 bits or floats, of which nobody knows what is white.
    """
    if image.mode in ("I", "F"):
        raise SourceError(
            f"got a PIL image of mode {image.mode}, whose pixels have no fixed range; "
            "scale it to 0 to 255 and convert it to L or RGB"
        )
    if image.mode.startswith("I;16"):
        from PIL import Image as pil

        wide = np.asarray(image).astype(np.uint16)
        return pil.fromarray((wide >> 8).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def checked_pixels(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """The array itself, BGR pixels uint8 ``(h, w, 3)``.

    Raises:
        SourceError: it is of another shape or dtype.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise SourceError(f"got an array {pixels.dtype} {pixels.shape}; expected uint8 (h, w, 3) in BGR")
    return pixels


def _decoded(encoded: bytes, what: str) -> NDArray[np.uint8]:
    import cv2

    try:
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags) if encoded else None
    except cv2.error:
        pixels = None
    if pixels is None:
        raise SourceError(f"{what} cannot be decoded here; expected a JPEG, PNG, WebP or BMP")
    return upright(pixels.astype(np.uint8, copy=False), exif_orientation(encoded))


def write_picture(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write BGR ``(h, w, 3)`` or grey ``(h, w)`` pixels, whole or not at all; the suffix says the format.

    Raises:
        OutputError: the suffix is none of a picture, the format has no room for this size, or the file
            cannot be written.
    """
    import cv2

    if path.suffix.lower() not in WRITTEN_SUFFIXES:
        raise OutputError(
            f"{path} cannot be written: expected a name that ends in {', '.join(WRITTEN_SUFFIXES)}"
        )
    try:
        with silent_opencv():
            done, encoded = cv2.imencode(path.suffix.lower(), pixels)
    except cv2.error:
        done = False
    if not done:
        height, width = pixels.shape[:2]
        raise OutputError(
            f"{path} cannot be written: a picture of {width}x{height} is too large for its format"
        )
    write_whole(path, encoded.tobytes())
