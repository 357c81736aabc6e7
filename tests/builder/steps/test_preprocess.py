"""The served preprocess: every kind of picture, geometry that inverts, refusals in one sentence."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detserve_builder.steps.detserve_preprocess import (
    PictureError,
    decode,
    fit,
    jpeg_reduction,
    jpeg_size,
    placement,
    preprocess,
    upright_size,
)

RULES = ["letterbox_center", "letterbox_topleft", "stretch"]
LIMIT = 100_000_000
MAGIC = [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF0000WEBP", b""]


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width: int, height: int) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([columns * 255 // width, rows * 255 // height, np.full_like(rows, 40)], -1).astype(
        np.uint8
    )


@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    input_wh=st.tuples(st.integers(8, 96), st.integers(8, 96)),
    rule=st.sampled_from(RULES),
)
def test_geometry_maps_the_picture_into_the_network_input(size, input_wh, rule) -> None:
    picture = np.full((size[1], size[0], 3), 200, np.uint8)
    image, geometry = fit(picture, input_wh=input_wh, resize=rule, pad_value=7)
    assert image.shape == (input_wh[1], input_wh[0], 3)
    scale, offset, picture_wh = geometry[:2], geometry[2:4], geometry[4:]
    assert tuple(picture_wh) == size
    low, high = np.round(offset).astype(int), np.round(picture_wh * scale + offset).astype(int)
    inside = image[low[1] : high[1], low[0] : high[0]]
    assert (inside == 200).all()
    assert (image == 200).sum() == inside.size
    assert inside.size > 0


def test_letterbox_center_keeps_the_ratio() -> None:
    image, geometry = fit(gradient(640, 480), input_wh=(416, 416), resize="letterbox_center", pad_value=114)
    assert geometry[2:4].tolist() == [0, 52]
    assert (image[:52] == 114).all()
    assert (image[-52:] == 114).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(orientation: int) -> None:
    upright = gradient(60, 40)
    sideways = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    stored = Image.fromarray(upright)
    if orientation in sideways:
        stored = stored.transpose(sideways[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = decode(encoded(stored, "JPEG", quality=98, exif=exif), max_picture_pixels=LIMIT)
    assert picture.shape[:2] == ((60, 40) if orientation in (5, 7) else (40, 60))
    if orientation in (1, *sideways):
        assert np.abs(picture.astype(int) - upright).mean() < 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1", "CMYK", "I;16"])
def test_every_kind_of_picture_becomes_rgb(kind: str, mode: str) -> None:
    rgb = Image.fromarray(gradient(50, 30))
    if mode == "I;16":
        if kind != "PNG":
            pytest.skip("16 bit exists in PNG only")
        grey = np.asarray(rgb.convert("L"))
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        image = rgb.convert(mode)
    try:
        data = encoded(image, kind, **({"quality": 98} if kind in ("JPEG", "WEBP") else {}))
    except (OSError, KeyError):
        pytest.skip(f"Pillow writes no {mode} {kind}")
    picture = decode(data, max_picture_pixels=LIMIT)
    assert picture.shape == (30, 50, 3)
    assert picture.dtype == np.uint8
    expected = np.asarray(rgb.convert("L").convert("RGB") if mode in ("L", "I;16") else rgb).astype(int)
    if mode not in ("1", "P"):
        assert np.abs(picture - expected).mean() < 8


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (8000, 6000)])
@pytest.mark.parametrize("rule", RULES)
def test_extreme_sizes(size, rule) -> None:
    ok, data = cv2.imencode(".png", np.full((size[1], size[0]), 90, np.uint8))
    assert ok
    image, geometry = preprocess(
        data.tobytes(),
        input_wh=(64, 64),
        decoding="whole",
        resize=rule,
        pad_value=114,
        max_picture_pixels=LIMIT,
    )
    assert image.shape == (64, 64, 3)
    assert (image == 90).any()
    assert np.isfinite(geometry).all()
    assert (geometry[:2] > 0).all()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"hello, I am text", "not a JPEG"),
        (b"\xff\xd8\xff\xe0 nothing else", "damaged or truncated"),
        (b"GIF89a" + bytes(40), "not a JPEG"),
    ],
)
def test_refusals(data: bytes, words: str) -> None:
    with pytest.raises(PictureError, match=words):
        decode(data, max_picture_pixels=LIMIT)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_truncated_jpeg_is_refused(progressive: bool, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8)
    data = encoded(Image.fromarray(noise), "JPEG", progressive=progressive)
    with pytest.raises(PictureError, match="damaged or truncated"):
        decode(data[: int(len(data) * share)], max_picture_pixels=LIMIT)


@given(
    stored_wh=st.tuples(st.integers(1, 9000), st.integers(1, 9000)),
    input_wh=st.tuples(st.integers(8, 700), st.integers(8, 700)),
    rule=st.sampled_from(RULES),
    turned=st.booleans(),
)
def test_a_reduced_picture_is_large_enough_and_tells_its_whole_size(
    stored_wh, input_wh, rule, turned
) -> None:
    reduction = jpeg_reduction(stored_wh, input_wh=input_wh, resize=rule)
    picture_wh = stored_wh[::-1] if turned else stored_wh
    reduced_w, reduced_h = (-(-side // reduction) for side in picture_wh)
    if reduction > 1:
        (resized_w, resized_h), _ = placement(picture_wh, input_wh=input_wh, resize=rule)
        assert reduced_w >= resized_w
        assert reduced_h >= resized_h
        assert upright_size(stored_wh, np.empty((reduced_h, reduced_w, 3)), reduction) == picture_wh


@pytest.mark.parametrize("size", [(1000, 700), (1000, 999), (801, 801)])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("progressive", [False, True])
def test_reduced_and_whole_decoding_agree(size, orientation: int, progressive: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(gradient(*size))
    data = encoded(stored, "JPEG", quality=95, exif=exif, progressive=progressive)
    assert jpeg_size(data) == size
    for input_wh, rule in (((96, 96), "letterbox_center"), ((160, 64), "letterbox_topleft")):
        options = {"input_wh": input_wh, "resize": rule, "pad_value": 0}
        reduction = jpeg_reduction(jpeg_size(data), input_wh=input_wh, resize=rule)
        assert (reduction >= 4) == (size != (1000, 999))  # there, halves would not show whether it was turned
        image, geometry = preprocess(data, **options, decoding="reduced", max_picture_pixels=LIMIT)
        whole, expected = fit(decode(data, max_picture_pixels=LIMIT), **options)
        np.testing.assert_array_equal(geometry, expected)
        assert np.abs(image.astype(int) - whole).max() < 12


@pytest.mark.parametrize("rule", RULES)
def test_a_jpeg_decoded_whole_has_the_pixels_of_a_png(rule: str) -> None:
    noise = np.random.default_rng(3).integers(0, 255, (640, 960, 3), np.uint8)
    jpeg = encoded(Image.fromarray(noise), "JPEG", quality=95)
    png = encoded(Image.fromarray(decode(jpeg, max_picture_pixels=LIMIT)), "PNG")
    options = {"input_wh": (96, 64), "resize": rule, "pad_value": 0, "max_picture_pixels": LIMIT}
    whole, reduced, of_png = (
        preprocess(picture, decoding=decoding, **options)[0].astype(int)
        for picture, decoding in ((jpeg, "whole"), (jpeg, "reduced"), (png, "reduced"))
    )
    np.testing.assert_array_equal(whole, of_png)
    assert np.abs(whole - reduced).mean() > 10


def frame_header(size: tuple[int, int], in_front: bytes = b"") -> bytes:
    """The start of a JPEG that claims to be this large."""
    height_width = size[1].to_bytes(2, "big") + size[0].to_bytes(2, "big")
    return MAGIC[0][:2] + in_front + b"\xff\xc0\x00\x11\x08" + height_width + b"\x03" + bytes(9)


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (frame_header((640, 480)), (640, 480)),
        (frame_header((640, 480), b"\xff\xe1\x00\x08\xff\xc0\x00\x11\x08\x00"), (640, 480)),
        (frame_header((640, 480), b"\xff\xc4\x00\x02"), (640, 480)),
        (frame_header((640, 0)), None),
        (frame_header((640, 480), b"\xff\xe1\xff\xff"), None),
        (frame_header((640, 480))[:10], None),
        (b"", None),
        (MAGIC[1], None),
    ],
)
def test_the_size_in_a_frame_header(data: bytes, size) -> None:
    assert jpeg_size(data) == size


@pytest.fixture
def undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test in which OpenCV is asked to decode."""

    def decoder(*_: object) -> None:
        pytest.fail("OpenCV was asked to decode")

    monkeypatch.setattr("cv2.imdecode", decoder)


@pytest.mark.usefixtures("undecoded")
def test_a_jpeg_that_claims_to_be_too_large_is_refused_by_its_header() -> None:
    claim = frame_header((640, 480))
    with pytest.raises(PictureError, match="larger than the 307199 pixels"):
        preprocess(
            claim,
            input_wh=(64, 64),
            decoding="reduced",
            resize="stretch",
            pad_value=0,
            max_picture_pixels=640 * 480 - 1,
        )


@pytest.mark.parametrize("patched", [(500, 2000), (2000, 500), (4000, 4000)])
def test_a_frame_header_that_lies_is_refused_or_decoded_as_it_says(patched: tuple[int, int]) -> None:
    data = bytearray(encoded(Image.fromarray(gradient(1000, 1000)), "JPEG"))
    where = data.index(b"\xff\xc0") + 5
    data[where : where + 4] = patched[1].to_bytes(2, "big") + patched[0].to_bytes(2, "big")
    options = {"input_wh": (64, 64), "resize": "letterbox_center", "pad_value": 0}
    try:
        image, geometry = preprocess(bytes(data), **options, decoding="reduced", max_picture_pixels=LIMIT)
    except PictureError:
        return
    assert image.shape == (64, 64, 3)
    assert tuple(geometry[4:]) == patched


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_truncated_jpeg_is_refused_at_reduced_scale_too(progressive: bool, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (600, 800, 3), np.uint8)
    data = encoded(Image.fromarray(noise), "JPEG", progressive=progressive)
    with pytest.raises(PictureError, match="damaged or truncated"):
        preprocess(
            data[: int(len(data) * share)],
            input_wh=(64, 64),
            decoding="reduced",
            resize="stretch",
            pad_value=0,
            max_picture_pixels=LIMIT,
        )


@pytest.mark.usefixtures("undecoded")
def test_a_png_with_a_chunk_longer_than_the_file_is_refused_before_it_is_decoded() -> None:
    whole = encoded(Image.new("RGB", (40, 30)), "PNG")
    data = whole.index(b"IDAT")
    rest_bytes = len(whole) - data - 4
    claim = whole[: data - 4] + (rest_bytes + 1).to_bytes(4, "big") + whole[data:]
    with pytest.raises(PictureError, match="damaged"):
        decode(claim, max_picture_pixels=LIMIT)


def test_a_picture_beyond_the_limit_is_refused() -> None:
    data = encoded(Image.new("L", (400, 300)), "PNG")
    with pytest.raises(PictureError, match="larger than the 119999 pixels"):
        decode(data, max_picture_pixels=400 * 300 - 1)


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from(MAGIC))
def test_garbage_never_escapes_as_another_error(garbage: bytes, magic: bytes) -> None:
    try:
        picture = decode(magic + garbage, max_picture_pixels=10_000)
    except PictureError:
        return
    assert picture.ndim == 3
