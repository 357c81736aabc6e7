"""Pictures as files: read upright, written whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detserve_client.pictures.opencv_log import silent_opencv
from detserve_core.errors import OutputError, SourceError
from detserve_core.machine.whole_files import write_whole

WRITTEN_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


def upright_pixels(path: Path) -> NDArray[np.uint8]:
    """Read a picture as BGR uint8 ``(h, w, 3)``, upright as its EXIF says: the pixels that boxes are in.

    Raises:
        SourceError: the file cannot be read or is no picture.
    """
    import cv2

    try:
        encoded = np.frombuffer(path.read_bytes(), np.uint8)
        pixels = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if encoded.size else None
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from None
    except cv2.error:
        pixels = None
    if pixels is None:
        raise SourceError(f"{path} cannot be decoded here; expected a JPEG, PNG, WebP or BMP")
    return pixels.astype(np.uint8, copy=False)


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
