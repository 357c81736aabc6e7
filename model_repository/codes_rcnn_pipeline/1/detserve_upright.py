"""Which way up a picture is: the one place that decides it for server, client, video and data sets.

A build copies this file beside the served preprocess, as ``detserve_upright.py``: it imports no detserve.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from mmap import mmap

import numpy as np
from numpy.typing import NDArray

AS_STORED = 1
QUARTER_TURNS = (5, 6, 7, 8)
_ORIENTATION = 0x0112
_PREFIX = b"Exif\x00\x00"
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_APP1, _SCAN, _END = 0xE1, 0xDA, 0xD9
_ENTRY_BYTES = 12


def exif_orientation(encoded: bytes | mmap) -> int:
    """EXIF's orientation, 1 to 8, of an encoded JPEG, PNG or WebP; 1, as stored, where none is said.

    What only XMP says does not count: browsers and OpenCV do not turn by it.
    """
    for exif in _exif_blocks(encoded):
        return _of_tiff(exif.removeprefix(_PREFIX))
    return AS_STORED


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Pixels uint8 ``(h, w, 3)`` as stored, turned and mirrored as an orientation of 1 to 8 says."""
    import cv2

    if orientation == AS_STORED:
        return pixels
    if orientation in QUARTER_TURNS:
        pixels = np.asarray(cv2.transpose(pixels), np.uint8)
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return pixels if flip is None else np.asarray(cv2.flip(pixels, flip), np.uint8)


def orientation_of_matrix(a: int, b: int, c: int, d: int) -> int:
    """EXIF's orientation of a video's display matrix, by the signs of its corner.

    A stored pixel (x, y) is shown at (a x + c y, b x + d y), y downwards. A matrix of no quarter turn is 1.
    """
    return {
        (-1, 0, 0, 1): 2,
        (-1, 0, 0, -1): 3,
        (1, 0, 0, -1): 4,
        (0, 1, 1, 0): 5,
        (0, 1, -1, 0): 6,
        (0, -1, -1, 0): 7,
        (0, -1, 1, 0): 8,
    }.get((_sign(a), _sign(b), _sign(c), _sign(d)), AS_STORED)


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)


def _exif_blocks(encoded: bytes | mmap) -> Iterator[bytes]:
    if encoded[:3] == _JPEG:
        return (block for block in _app1_segments(encoded) if block.startswith(_PREFIX))
    if encoded[:8] == _PNG:
        return _chunks(encoded, start=8, name=b"eXIf", length_first=True)
    if encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP":
        return _chunks(encoded, start=12, name=b"EXIF", length_first=False)
    return iter(())


def _app1_segments(jpeg: bytes | mmap) -> Iterator[bytes]:
    """EXIF is in an APP1 segment, but so is XMP, and either may come first."""
    position = 2
    while position + 4 <= len(jpeg) and jpeg[position] == 0xFF:
        marker = jpeg[position + 1]
        if marker == 0xFF:  # a marker may be filled up in front
            position += 1
            continue
        if marker in (_SCAN, _END):
            return
        length = int.from_bytes(jpeg[position + 2 : position + 4], "big")
        if marker == _APP1:
            yield jpeg[position + 4 : position + 2 + length]
        position += 2 + length


def _chunks(encoded: bytes | mmap, *, start: int, name: bytes, length_first: bool) -> Iterator[bytes]:
    """The chunks of that name: PNG has length, name, content and checksum, WebP name, length, content."""
    position = start
    while position + 8 <= len(encoded):
        first, second = encoded[position : position + 4], encoded[position + 4 : position + 8]
        kind = second if length_first else first
        length = int.from_bytes(first, "big") if length_first else int.from_bytes(second, "little")
        if kind == name:
            yield encoded[position + 8 : position + 8 + length]
        position += 8 + length + (4 if length_first else length % 2)


def _of_tiff(exif: bytes) -> int:
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(exif[:4])
    if order is None or len(exif) < 10:
        return AS_STORED
    (directory,) = struct.unpack_from(f"{order}I", exif, 4)
    if directory + 2 > len(exif):
        return AS_STORED
    (entries,) = struct.unpack_from(f"{order}H", exif, directory)
    for position in range(directory + 2, directory + 2 + entries * _ENTRY_BYTES, _ENTRY_BYTES):
        if position + _ENTRY_BYTES > len(exif):
            break
        tag, _, _, value = struct.unpack_from(f"{order}HHIH", exif, position)
        if tag == _ORIENTATION:
            return value if 1 <= value <= 8 else AS_STORED
    return AS_STORED
