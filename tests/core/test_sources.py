from __future__ import annotations

import os
from pathlib import Path

import pytest

from detserve_client import SourceError
from detserve_core.picture_sources import expand_sources


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b.jpg", "a.PNG", "sub/deep/c.webp", "sub/b.jpg", "notes.txt", "other/b.jpg", "empty/x.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "folder.jpg").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*sources: str) -> list[tuple[str, str]]:
    return [(str(picture.path), str(picture.name)) for picture in expand_sources(sources)]


def test_a_file_is_taken_whatever_its_suffix(folder: Path) -> None:
    assert names("notes.txt", "b.jpg") == [("notes.txt", "notes.txt"), ("b.jpg", "b.jpg")]


def test_a_folder_is_searched_through_and_keeps_its_shape(folder: Path) -> None:
    assert names("sub") == [("sub/b.jpg", "b.jpg"), ("sub/deep/c.webp", "deep/c.webp")]


def test_patterns(folder: Path) -> None:
    assert [path for path, _ in names("*.*")] == ["a.PNG", "b.jpg"]
    assert [path for path, _ in names("sub/**/*.webp")] == ["sub/deep/c.webp"]


def test_a_file_name_may_look_like_a_pattern(folder: Path) -> None:
    (folder / "[1].jpg").touch()
    assert names("[1].jpg") == [("[1].jpg", "[1].jpg")]


def test_each_picture_comes_once_with_a_name_of_its_own(folder: Path) -> None:
    assert names("b.jpg", "sub/b.jpg", "other", str(folder / "b.jpg"), "*.jpg") == [
        ("b.jpg", "b.jpg"),
        ("sub/b.jpg", "b-2.jpg"),
        ("other/b.jpg", "b-3.jpg"),
    ]


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (
            "absent.jpg",
            "there is no file or folder 'absent.jpg'; expected pictures, folders or glob patterns",
        ),
        ("empty", "the folder 'empty' has no picture; expected .bmp, .jpeg, .jpg, .png, .webp"),
        ("*.bmp", r"nothing matches '\*.bmp' with a suffix of .bmp"),
        ("*.txt", r"nothing matches '\*.txt'"),
    ],
)
def test_mistakes(folder: Path, source: str, sentence: str) -> None:
    with pytest.raises(SourceError, match=sentence):
        expand_sources(["b.jpg", source])


def test_names_that_link_to_one_file_are_as_many_pictures(folder: Path) -> None:
    (folder / "linked").mkdir()
    for name in ("1.jpg", "2.jpg"):
        (folder / "linked" / name).symlink_to("../b.jpg")
    assert names("linked", "b.jpg") == [
        ("linked/1.jpg", "1.jpg"),
        ("linked/2.jpg", "2.jpg"),
        ("b.jpg", "b.jpg"),
    ]


def test_links_to_folders_are_searched_through_each_folder_once(folder: Path) -> None:
    (folder / "sub/link").symlink_to("../other")
    (folder / "sub/deep/loop").symlink_to("..")
    assert [path for path, _ in names("sub")] == ["sub/b.jpg", "sub/deep/c.webp", "sub/link/b.jpg"]


def test_a_folder_that_cannot_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refused(path: Path) -> object:
        if Path(path).name == "deep":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(SourceError, match="the folder 'sub/deep' cannot be read: Permission denied"):
        expand_sources(["sub"])


def test_the_drawn_pictures_have_names_of_their_own_too(folder: Path) -> None:
    (folder / "b").touch()
    assert names("b.jpg", "b") == [("b.jpg", "b.jpg"), ("b", "b-2")]
    assert names("b", "b.jpg") == [("b", "b"), ("b.jpg", "b-2.jpg")]
