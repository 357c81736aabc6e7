"""Pixels as a BMP: an encoded picture that is not compressed, so that writing and reading it are copies."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

_HEADER_BYTES = 54


def bmp_bytes(width_px: int, height_px: int) -> int:
    """The size of the BMP of a picture."""
    return _HEADER_BYTES + _row_bytes(width_px) * height_px


def write_bmp(target: NDArray[np.uint8], pixels: NDArray[np.uint8]) -> None:
    """Write BGR pixels uint8 ``(h, w, 3)`` as a BMP that fills ``target``, uint8 ``(bmp_bytes(w, h),)``."""
    height_px, width_px = pixels.shape[:2]
    row_bytes = _row_bytes(width_px)
    pixel_bytes = row_bytes * height_px
    file_header = struct.pack("<2sIHHI", b"BM", _HEADER_BYTES + pixel_bytes, 0, 0, _HEADER_BYTES)
    info_header = struct.pack("<IiiHHIIiiII", 40, width_px, height_px, 1, 24, 0, pixel_bytes, 0, 0, 0, 0)
    target[:_HEADER_BYTES] = np.frombuffer(file_header + info_header, np.uint8)
    rows = target[_HEADER_BYTES:].reshape(height_px, row_bytes)
    rows[:, : width_px * 3].reshape(height_px, width_px, 3)[::-1] = pixels  # the bottom row comes first


def _row_bytes(width_px: int) -> int:
    """A row ends at a multiple of 4 bytes."""
    return (width_px * 3 + 3) // 4 * 4
