"""Encoded picture -> network input. The one implementation: served, calibrated with and compared against."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

# The formats of the contract. OpenCV reads many more; each decoder a stranger can reach is attack surface.
_MAGIC = {"JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG\r\n\x1a\n", "BMP": b"BM"}


class PictureError(ValueError):
    """The picture cannot be used; the text is one sentence for the caller."""


def preprocess(
    encoded: bytes, *, input_wh: tuple[int, int], resize: str, pad_value: int, max_picture_pixels: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Decode and resize one picture.

    Returns the image, RGB uint8 [H,W,3] of the network's size, and the geometry, float32 [6]:
    scale_x, scale_y, offset_x_px, offset_y_px, picture_w_px, picture_h_px, where
    ``network_x = picture_x * scale_x + offset_x``. Raises :class:`PictureError`.
    """
    picture = decode(encoded, max_picture_pixels=max_picture_pixels)
    return fit(picture, input_wh=input_wh, resize=resize, pad_value=pad_value)


def decode(encoded: bytes, *, max_picture_pixels: int) -> NDArray[np.uint8]:
    """Encoded bytes -> upright RGB uint8 [h,w,3]; 16 bit, grey, CMYK and alpha become 8-bit RGB."""
    if not encoded:
        raise PictureError("empty, expected the bytes of a JPEG, PNG, WebP or BMP picture")
    if not _is_known(encoded):
        raise PictureError(f"not a JPEG, PNG, WebP or BMP picture (it begins with {encoded[:8]!r})")
    if encoded.startswith(_MAGIC["PNG"]) and not _png_is_whole(encoded):
        raise PictureError(_damaged(encoded))
    try:
        picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        # OpenCV checks the header against OPENCV_IO_MAX_IMAGE_PIXELS before it allocates anything.
        if "CV_IO_MAX_IMAGE" in str(error):
            raise PictureError(_too_large(max_picture_pixels)) from None
        picture = None
    if picture is None:
        raise PictureError(_damaged(encoded))
    if picture.shape[0] * picture.shape[1] > max_picture_pixels:
        raise PictureError(_too_large(max_picture_pixels))
    return np.asarray(picture, np.uint8)


def fit(
    picture: NDArray[np.uint8], *, input_wh: tuple[int, int], resize: str, pad_value: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Resize RGB uint8 [h,w,3] to the network's size by the card's rule; returns as :func:`preprocess`.

    ``letterbox_center`` rounds the resized side and the left and top padding as Ultralytics does,
    ``letterbox_topleft`` truncates the resized side as YOLOX does, ``stretch`` ignores the ratio.
    """
    picture_h, picture_w = picture.shape[:2]
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
    """Size of the resized picture, and where its left upper corner lies in the network input; pixels."""
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
    """Whether every chunk lies inside the file. OpenCV allocates what a chunk's length claims, up to 2 GB."""
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
