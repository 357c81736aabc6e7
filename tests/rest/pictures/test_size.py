"""The size from the header is the size of the decoded picture."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from detserve_core.errors import SourceError
from detserve_core.pictures.files import pixels_of
from detserve_rest.pictures.size import picture_wh

_SIDE = st.integers(1, 70)


def encoded(wh: tuple[int, int], kind: str, **how: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", wh, (9, 99, 199)).save(buffer, kind, **how)
    return buffer.getvalue()


def agrees(picture: bytes) -> bool:
    height, width = pixels_of(picture).shape[:2]
    return picture_wh(picture) == (width, height)


@given(_SIDE, _SIDE, st.booleans(), st.sampled_from(range(1, 9)), st.booleans())
def test_jpeg(width: int, height: int, progressive: bool, orientation: int, commented: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    comment = {"comment": b"\xff\xc0\x00\x11 no frame"} if commented else {}
    assert agrees(encoded((width, height), "JPEG", progressive=progressive, exif=exif, **comment))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP"])
def test_other_formats(kind: str) -> None:
    assert agrees(encoded((37, 53), kind))


def test_filled_up_markers_as_decoders_take_them() -> None:
    """Bytes FF may stand before a marker."""
    plain = encoded((37, 53), "JPEG")
    assert agrees(plain[:2] + b"\xff\xff" + plain[2:])


def test_grey_and_what_only_opencv_reads() -> None:
    _, grey = cv2.imencode(".jpg", np.zeros((53, 37), np.uint8))
    assert agrees(grey.tobytes())
    _, portable = cv2.imencode(".ppm", np.zeros((53, 37, 3), np.uint8))
    assert agrees(portable.tobytes())


@pytest.mark.parametrize(
    "picture", [b"", b"\xff\xd8", b"\xff\xd8\xff\xc0", b"\xff\xd8\xff\xc0\x00\x11\x08", b"x" * 99]
)
def test_no_picture(picture: bytes) -> None:
    with pytest.raises(SourceError):
        picture_wh(picture)
