"""Encoded picture -> network input. The one implementation: served, calibrated with and compared against."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

try:
    from detserve_upright import exif_orientation, upright
except ModuleNotFoundError:  # it lies beside this file in a repository alone
    from detserve_core.pictures.upright import exif_orientation, upright

# The formats of the contract. OpenCV reads many more; each decoder a stranger can reach is attack surface.
_MAGIC = {"JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG\r\n\x1a\n", "BMP": b"BM"}

_READ_AT = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_REDUCED_COLOR_2 & ~cv2.IMREAD_COLOR | cv2.IMREAD_COLOR_RGB,
    4: cv2.IMREAD_REDUCED_COLOR_4 & ~cv2.IMREAD_COLOR | cv2.IMREAD_COLOR_RGB,
    8: cv2.IMREAD_REDUCED_COLOR_8 & ~cv2.IMREAD_COLOR | cv2.IMREAD_COLOR_RGB,
}
_AS_STORED = cv2.IMREAD_IGNORE_ORIENTATION  # OpenCV turns JPEG and PNG alone
_NO_FRAME_HEADER = (0xC4, 0xC8, 0xCC)  # among 0xC0..0xCF: Huffman tables, reserved, arithmetic conditioning


class PictureError(ValueError):
    """The picture cannot be used; the text is one sentence for the caller."""


def settings(card: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`preprocess` takes from a card, given as JSON."""
    spec = card["preprocess"]
    return {
        "input_wh": tuple(card["input_wh"]),
        "decoding": spec["decode"],
        "resize": spec["resize"],
        "pad_value": spec["pad_value"],
        "max_picture_pixels": card["max_picture_pixels"],
    }


def preprocess(
    encoded: bytes,
    *,
    input_wh: tuple[int, int],
    decoding: str,
    resize: str,
    pad_value: int,
    max_picture_pixels: int,
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Decode, ``whole`` or ``reduced`` (see :func:`jpeg_reduction`), and resize one picture.

    Returns the image, RGB uint8 [H,W,3] of the network's size, and the geometry, float32 [6]:
    scale_x, scale_y, offset_x_px, offset_y_px, picture_w_px, picture_h_px, where
    ``network_x = picture_x * scale_x + offset_x``. Raises :class:`PictureError`.
    """
    stored_wh = jpeg_size(encoded)
    reduction = 1
    if decoding == "reduced":
        reduction = jpeg_reduction(stored_wh, input_wh=input_wh, resize=resize)
    picture = decode(encoded, max_picture_pixels=max_picture_pixels, reduction=reduction)
    picture_wh = upright_size(stored_wh, picture, reduction)
    return fit(picture, input_wh=input_wh, resize=resize, pad_value=pad_value, picture_wh=picture_wh)


def decode(encoded: bytes, *, max_picture_pixels: int, reduction: int = 1) -> NDArray[np.uint8]:
    """Encoded bytes -> upright RGB uint8 [h,w,3]; 16 bit, grey, CMYK and alpha become 8-bit RGB.

    ``reduction`` 2, 4 or 8 is for JPEG and divides the sides, rounded up; ``max_picture_pixels`` is of the
    whole picture all the same.
    """
    if not encoded:
        raise PictureError("empty, expected the bytes of a JPEG, PNG, WebP or BMP picture")
    if not _is_known(encoded):
        raise PictureError(f"not a JPEG, PNG, WebP or BMP picture (it begins with {encoded[:8]!r})")
    if encoded.startswith(_MAGIC["PNG"]) and not _png_is_whole(encoded):
        raise PictureError(_damaged(encoded))
    stored_wh = jpeg_size(encoded)
    if stored_wh and stored_wh[0] * stored_wh[1] > max_picture_pixels:
        raise PictureError(_too_large(max_picture_pixels))
    try:
        picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), _READ_AT[reduction] | _AS_STORED)
    except cv2.error as error:
        # OpenCV checks the header against OPENCV_IO_MAX_IMAGE_PIXELS before it allocates anything.
        if "CV_IO_MAX_IMAGE" in str(error):
            raise PictureError(_too_large(max_picture_pixels)) from None
        picture = None
    if picture is None:
        raise PictureError(_damaged(encoded))
    if picture.shape[0] * picture.shape[1] > max_picture_pixels:
        raise PictureError(_too_large(max_picture_pixels))
    return np.asarray(upright(np.asarray(picture, np.uint8), exif_orientation(encoded)), np.uint8)


def jpeg_size(encoded: bytes) -> tuple[int, int] | None:
    """Width and height in a JPEG's frame header, before any EXIF rotation; None where none is found."""
    if not encoded.startswith(_MAGIC["JPEG"]):
        return None
    position = 2
    while encoded[position : position + 1] == b"\xff" and position + 9 <= len(encoded):
        marker = encoded[position + 1]
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME_HEADER:
            height, width = struct.unpack_from(">HH", encoded, position + 5)
            return (width, height) if width and height else None
        position += 2 + int.from_bytes(encoded[position + 2 : position + 4], "big")
    return None


def jpeg_reduction(stored_wh: tuple[int, int] | None, *, input_wh: tuple[int, int], resize: str) -> int:
    """By how much libjpeg shall reduce a picture while it decodes: 8, 4, 2 or 1.

    The largest that leaves no side smaller than :func:`fit` needs it. It saves most of the decoding, and what
    it leaves out is left out by averaging, where the linear resize would skip pixels.
    """
    if stored_wh is None:
        return 1
    stored_w, stored_h = stored_wh
    needed = []  # upright, and turned by EXIF
    for picture_wh in ((stored_w, stored_h), (stored_h, stored_w)):
        (resized_w, resized_h), _ = placement(picture_wh, input_wh=input_wh, resize=resize)
        needed.append(min(picture_wh[0] / resized_w, picture_wh[1] / resized_h))
    for reduction in (8, 4, 2):
        turn_shows = stored_w == stored_h or -(-stored_w // reduction) != -(-stored_h // reduction)
        if reduction <= min(needed) and turn_shows:
            return reduction
    return 1


def upright_size(
    stored_wh: tuple[int, int] | None, picture: NDArray[np.uint8], reduction: int
) -> tuple[int, int]:
    """Width and height of the whole picture of which ``picture`` was decoded at ``reduction``, upright."""
    height, width = picture.shape[:2]
    if stored_wh is None or reduction == 1:
        return width, height
    for picture_wh in (stored_wh, stored_wh[::-1]):
        if (width, height) == (-(-picture_wh[0] // reduction), -(-picture_wh[1] // reduction)):
            return picture_wh
    raise PictureError(
        f"damaged, its header's {stored_wh[0]}x{stored_wh[1]} pixels are not those of its content"
    )


def fit(
    picture: NDArray[np.uint8],
    *,
    input_wh: tuple[int, int],
    resize: str,
    pad_value: int,
    picture_wh: tuple[int, int] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Resize RGB uint8 [h,w,3] to the network's size by the card's rule; returns as :func:`preprocess`.

    ``letterbox_center`` rounds the resized side and the left and top padding as Ultralytics does,
    ``letterbox_topleft`` truncates the resized side as YOLOX does, ``stretch`` ignores the ratio.
    ``picture_wh`` is the size that the geometry is for, where ``picture`` was decoded at a reduced one.
    """
    picture_w, picture_h = picture_wh or (picture.shape[1], picture.shape[0])
    resized_wh, (left, top) = placement((picture_w, picture_h), input_wh=input_wh, resize=resize)
    resized = cv2.resize(picture, resized_wh, interpolation=cv2.INTER_LINEAR)
    if resized_wh == tuple(input_wh):
        image = resized
    else:
        image = np.full((input_wh[1], input_wh[0], 3), pad_value, np.uint8)
        image[top : top + resized_wh[1], left : left + resized_wh[0]] = resized
    return np.asarray(image, np.uint8), geometry_of((picture_w, picture_h), resized_wh, (left, top))


def placement(
    picture_wh: tuple[int, int], *, input_wh: tuple[int, int], resize: str
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Size of the resized picture, and where its left upper corner is in the network input; pixels."""
    (picture_w, picture_h), (input_w, input_h) = picture_wh, input_wh
    if resize == "stretch":
        return (input_w, input_h), (0, 0)
    ratio = min(input_w / picture_w, input_h / picture_h)
    whole = round if resize == "letterbox_center" else int
    resized_w, resized_h = max(1, whole(picture_w * ratio)), max(1, whole(picture_h * ratio))
    if resize == "letterbox_center":
        return (resized_w, resized_h), ((input_w - resized_w) // 2, (input_h - resized_h) // 2)
    return (resized_w, resized_h), (0, 0)


def geometry_of(
    picture_wh: tuple[int, int], resized_wh: tuple[int, int], offset_xy: tuple[int, int]
) -> NDArray[np.float32]:
    """The geometry, float32 [6], of a picture that :func:`placement` put into the network input."""
    scale = (resized_wh[0] / picture_wh[0], resized_wh[1] / picture_wh[1])
    return np.array([*scale, *offset_xy, *picture_wh], np.float32)


def _is_known(encoded: bytes) -> bool:
    return any(encoded.startswith(magic) for magic in _MAGIC.values()) or (
        encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP"
    )


def _png_is_whole(encoded: bytes) -> bool:
    """Whether every chunk lies inside the file. OpenCV allocates what a chunk's length claims."""
    position = len(_MAGIC["PNG"])
    while position + 12 <= len(encoded):
        length = int.from_bytes(encoded[position : position + 4], "big")
        if encoded[position + 4 : position + 8] == b"IEND":
            return True
        position += 12 + length
    return False


def _damaged(encoded: bytes) -> str:
    return f"damaged or truncated, it cannot be decoded ({len(encoded)} bytes)"


def _too_large(max_picture_pixels: int) -> str:
    return f"larger than the {max_picture_pixels} pixels this detector accepts; send a smaller one"
