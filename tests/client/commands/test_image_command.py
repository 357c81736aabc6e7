"""``detserve image``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from detserve_client import Detected, Detections
from detserve_client.results.run_files import write_json
from detserve_core.pictures.drawing import annotated
from tests.command import detserve


def image(*arguments: object) -> subprocess.CompletedProcess[str]:
    return detserve("image", *arguments)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """60 wide and 40 high once it is upright: the left half is red."""
    exif = Image.Exif()
    exif[274] = 6
    lying = Image.new("RGB", (40, 60), "white")
    lying.paste("red", (0, 30, 40, 60))
    path = tmp_path / "a.jpg"
    lying.save(path, exif=exif, quality=95)
    return path


def test_gray(picture: Path, tmp_path: Path) -> None:
    """In its own process, as the others are not."""
    command = [sys.executable, "-m", "detserve.command", "image", "gray", picture]
    subprocess.run([*command, tmp_path / "deep/out.png"], check=True, timeout=60)
    grey = cv2.imread(str(tmp_path / "deep/out.png"), cv2.IMREAD_UNCHANGED)
    assert grey.shape == (40, 60)
    assert abs(int(grey[20, 5]) - 76) < 4
    assert abs(int(grey[20, 55]) - 255) < 4


@pytest.mark.parametrize(
    ("options", "wh"),
    [
        (["--width", "30"], (30, 20)),
        (["--height", "80"], (120, 80)),
        (["--width", "10", "--height", "90"], (10, 90)),
        (["--scale", "0.5"], (30, 20)),
        (["--scale", "0.001"], (1, 1)),
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_resize(picture: Path, tmp_path: Path, options: list[str], wh: tuple[int, int], suffix: str) -> None:
    target = tmp_path / f"out{suffix}"
    done = image("resize", picture, target, *options)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert Image.open(target).size == wh


def test_draw(picture: Path, tmp_path: Path, found: Detections) -> None:
    json = tmp_path / "found.json"
    write_json(
        json, [Detected(str(tmp_path / "b.jpg"), Detections.empty(["cat"])), Detected(str(picture), found)]
    )
    assert image("draw", picture, tmp_path / "out.png", "--json", json).returncode == 0
    expected = annotated(cv2.imread(str(picture)), found)
    assert np.array_equal(cv2.imread(str(tmp_path / "out.png")), expected)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["gray", "{tmp}/absent.jpg", "{tmp}/o.png"], "absent.jpg cannot be read: No such file"),
        (["gray", "{tmp}/text.jpg", "{tmp}/o.png"], "text.jpg cannot be decoded here; expected a JPEG"),
        (["gray", "{tmp}/a.jpg", "{tmp}/a.jpg"], "would overwrite the picture itself; name another file"),
        (["gray", "{tmp}/a.jpg", "{tmp}/o.tiff"], "expected a name that ends in .bmp, .jpeg, .jpg"),
        (["gray", "{tmp}/a.jpg", "{tmp}/text.jpg/o.png"], "o.png cannot be written: "),
        (
            ["resize", "{tmp}/a.jpg", "{tmp}/o.jpg", "--width", "70000", "--height", "1"],
            "70000x1 is too large",
        ),
        (["resize", "{tmp}/a.jpg", "{tmp}/o.png", "--scale", "999"], "59940x39960 is too large"),
        (
            ["draw", "{tmp}/a.jpg", "{tmp}/o.png", "--json", "{tmp}/text.jpg"],
            "text.jpg is not a list of detections",
        ),
    ],
)
def test_a_mistake_is_one_sentence(
    picture: Path, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    before = sorted(tmp_path.iterdir())
    done = image(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("detserve: ")
    assert done.stderr.count("\n") == 1
    assert sentence in done.stderr
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "options", [[], ["--scale", "2", "--width", "3"], ["--scale", "inf"], ["--width", "0"]]
)
def test_wrong_usage_exits_2(picture: Path, tmp_path: Path, options: list[str]) -> None:
    assert image("resize", picture, tmp_path / "o.png", *options).returncode == 2
