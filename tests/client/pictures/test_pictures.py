from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from detserve_client import SourceError
from detserve_client.pictures.encoding import encoded_picture
from detserve_core.pictures.files import pixels_of

GREEN_BGR = (0, 200, 0)


def decoded(encoded: bytes) -> np.ndarray[Any, Any]:
    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    return pixels


def test_files_and_bytes_go_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"anything")
    assert encoded_picture(path) == b"anything"
    assert encoded_picture(str(path)) == b"anything"
    assert encoded_picture(b"anything") == b"anything"


@pytest.mark.parametrize("view", ["whole", "every second pixel"])
def test_pixels_become_a_jpeg(view: str) -> None:
    pixels = np.full((20, 30, 3), GREEN_BGR, np.uint8)
    if view != "whole":
        pixels = pixels[::2, ::2]
    encoded = encoded_picture(pixels)
    assert encoded.startswith(b"\xff\xd8\xff")
    back = decoded(encoded)
    assert back.shape == pixels.shape
    assert np.abs(back.astype(int) - GREEN_BGR).max() < 4


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK"])
def test_a_pil_image_becomes_a_jpeg(mode: str) -> None:
    encoded = encoded_picture(Image.new("RGB", (30, 20), (0, 200, 0)).convert(mode))
    assert decoded(encoded).shape == (20, 30, 3)


def test_a_pil_image_keeps_its_own_pixels_whatever_its_exif_says() -> None:
    exif = Image.Exif()
    exif[274] = 6  # turn by 90 degrees to be upright
    file = io.BytesIO()
    Image.new("RGB", (30, 20)).save(file, "JPEG", exif=exif)
    assert decoded(encoded_picture(Image.open(file))).shape == (20, 30, 3)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (b"", "the picture is empty; expected a JPEG, PNG, WebP or BMP"),
        ("no/such/file.jpg", "no/such/file.jpg cannot be read: No such file or directory"),
        (".", r". is a folder; expected a picture here: detect\('.'\) takes a folder alone"),
        (
            "ftp://host/a.jpg",
            "cannot fetch ftp://host/a.jpg; expected a path or a URL with http:// or https://, got",
        ),
        (io.BytesIO(), "the file object is empty"),
        (io.StringIO("text"), 'the file object gives str; open it for bytes: open\\(..., "rb"\\)'),
        (7, "got a picture source of type int; expected a path, a URL, bytes"),
        (np.zeros((4, 4, 3)), r"got an array float64 \(4, 4, 3\); expected uint8 \(h, w, 3\) in BGR"),
        (np.zeros((4, 4), np.uint8), r"got an array uint8 \(4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"got an array uint8 \(0, 4, 3\)"),
        (np.zeros((1, 70_000, 3), np.uint8), "cannot become a JPEG; expected sides of at most 65500 pixels"),
        (Image.new("RGB", (70_000, 1)), "cannot become a JPEG"),
    ],
)
def test_mistakes(source: Any, sentence: str) -> None:
    with pytest.raises(SourceError, match=sentence):
        encoded_picture(source)


def test_pixels_without_opencv_name_the_extra() -> None:
    code = (
        "import sys; sys.modules['cv2'] = None\n"
        "import numpy as np\n"
        "from detserve_client import MissingExtra\n"
        "from detserve_client.pictures.encoding import encoded_picture\n"
        "try: encoded_picture(np.zeros((4, 4, 3), np.uint8))\n"
        "except MissingExtra as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'detserve[draw]'" in done.stdout


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L"])
def test_16_bits_are_seen_as_the_file_is(mode: str) -> None:
    """A PNG of 16 bits decodes to its upper eight; Pillow's own conversion clips nearly all to white."""
    grey = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    raw = grey.astype(">u2" if mode == "I;16B" else "<u2").tobytes()
    sent = cv2.imdecode(np.frombuffer(encoded_picture(Image.frombytes(mode, (64, 48), raw)), np.uint8), 1)
    of_the_file = cv2.imdecode(cv2.imencode(".png", grey)[1], 1)
    assert np.abs(sent.astype(int) - of_the_file).max() <= 3, "but for the JPEG's rounding"


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_range_are_refused(mode: str) -> None:
    with pytest.raises(SourceError, match=f"mode {mode}, whose pixels have no fixed range"):
        encoded_picture(Image.new(mode, (8, 8)))


@pytest.mark.parametrize("name", ["nul\0.jpg", "surrogate\ud800.jpg"])
def test_a_name_that_no_file_can_have(name: str) -> None:
    for read in (encoded_picture, pixels_of):
        with pytest.raises(SourceError) as raised:
            read(name)
        assert repr(name) in str(raised.value)
