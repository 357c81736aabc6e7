from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from detserve_client import Detections, SourceError
from detserve_core.pictures.drawing import annotated, drawn_path, save_drawn
from detserve_core.pictures.files import upright_pixels


def test_boxes_are_drawn_on_a_copy(found: Detections) -> None:
    pixels = np.zeros((200, 300, 3), np.uint8)
    drawn = annotated(pixels, found)
    assert drawn.shape == pixels.shape
    assert not pixels.any()
    x1, y1, x2, y2 = found.boxes[0].astype(int)
    for x, y in ((x1 + 60, y2), (x2, y2 - 20), (x1, y2 - 20)):
        assert drawn[y, x].any(), f"no line at {x}, {y}"
    assert not drawn[150:, 150:].any()
    assert not np.array_equal(drawn[y2, x1 + 60], [0, 0, 0])
    assert y1 == 20


def test_the_best_is_on_top() -> None:
    boxes = np.array([[20, 40, 120, 90]] * 2, np.float32)
    both = Detections(boxes, np.array([0.9, 0.3], np.float32), np.array([0, 1], np.int32), ("a", "b"))
    pixels = np.zeros((200, 300, 3), np.uint8)
    best_alone = annotated(pixels, both[np.array([True, False])])
    assert np.array_equal(annotated(pixels, both)[90, 60], best_alone[90, 60])


def test_nothing_found_draws_nothing() -> None:
    pixels = np.full((40, 40, 3), 9, np.uint8)
    assert np.array_equal(annotated(pixels, Detections.empty(["a"])), pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_upright(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / "a.jpg"
    Image.new("RGB", (30, 20)).save(path, exif=exif)
    assert upright_pixels(path).shape == ((20, 30, 3) if orientation < 5 else (30, 20, 3))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".JPG"])
def test_the_drawn_picture_is_written(tmp_path: Path, found: Detections, suffix: str) -> None:
    source, target = tmp_path / f"a{suffix}", tmp_path / "out" / "deep" / f"a{suffix}"
    cv2.imwrite(str(source), np.zeros((100, 200, 3), np.uint8))
    save_drawn(source, found, target)
    pixels = cv2.imread(str(target))
    assert pixels is not None
    assert pixels.shape == (100, 200, 3)
    assert pixels.max() > 60
    assert list(target.parent.iterdir()) == [target]


def test_where_it_goes() -> None:
    assert drawn_path(Path("out"), Path("sub/a.png")) == Path("out/sub/a.png")
    assert drawn_path(Path("out"), Path("a.tiff")) == Path("out/a.tiff.jpg")


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_what_cannot_be_decoded_here(tmp_path: Path, found: Detections, content: bytes) -> None:
    source = tmp_path / "a.jpg"
    source.write_bytes(content)
    with pytest.raises(SourceError, match="cannot be decoded here"):
        save_drawn(source, found, tmp_path / "out.jpg")
    with pytest.raises(SourceError, match=r"absent\.jpg cannot be read: No such file"):
        save_drawn(tmp_path / "absent.jpg", found, tmp_path / "out.jpg")
    assert not (tmp_path / "out.jpg").exists()


def test_a_pil_image_of_a_damaged_file_is_a_sentence(found: Detections, tmp_path: Path) -> None:
    """Pillow reads the file when its pixels are asked for."""
    whole = tmp_path / "whole.png"
    Image.effect_noise((64, 64), 50).save(whole)
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:1000])
    for image in (Image.open(cut), Image.new("La", (8, 8))):
        with pytest.raises(SourceError, match="has no pixels here"):
            found.draw(image)
