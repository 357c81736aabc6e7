"""Which pictures of a data set are scored, and labels that contradict their pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detserve_core.datasets import open_dataset
from detserve_core.datasets.errors import DatasetError
from tests.core.datasets.test_datasets import picture, text

CODE = ("code",)


def splits(folder: Path) -> Path:
    """Two pictures to train with and one to validate with, as Ultralytics lays them out."""
    for name in ("train/a", "train/b", "val/c"):
        picture(folder / f"images/{name}.jpg")
        text(folder / f"labels/{name}.txt", "0 0.5 0.5 0.5 0.5\n")
    return folder


def scored(folder: Path, images: Path | None = None) -> list[str]:
    dataset = open_dataset(folder, images, CODE)
    assert dataset.notes == ()
    return [one.path.stem for one in dataset.read() if len(one.classes)]


def test_data_yaml_chooses_the_pictures_of_a_folder(tmp_path: Path) -> None:
    folder = splits(tmp_path)
    text(folder / "data.yaml", "train: images/train\nval: images/val\nnames: [code]\n")
    assert scored(folder) == ["c"]
    assert scored(folder, folder / "images/train") == ["a", "b"]


def test_train_and_val_are_not_scored_together(tmp_path: Path) -> None:
    folder = splits(tmp_path)
    with pytest.raises(DatasetError, match=r"holds val and train, which are not .*: --images .*images/val$"):
        open_dataset(folder, None, CODE)
    assert scored(folder, folder / "images/val") == ["c"]


def on_its_side(folder: Path, said_wh: tuple[int, int], *boxes: list[float]) -> Path:
    """100x80 as stored, which EXIF turns to 80x100."""
    picture(folder / "images/a.jpg", (100, 80), orientation=6)
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": said_wh[0], "height": said_wh[1]}],
        "categories": [{"id": 1, "name": "code"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": box} for box in boxes],
    }
    return text(folder / "instances.json", json.dumps(content))


def test_boxes_of_the_upright_picture_are_read(tmp_path: Path) -> None:
    assert open_dataset(on_its_side(tmp_path, (80, 100), [10, 60, 20, 40]), None, CODE).notes == ()


def test_a_size_of_the_picture_on_its_side_is_a_note_where_the_boxes_fit(tmp_path: Path) -> None:
    (note,) = open_dataset(on_its_side(tmp_path, (100, 80), [10, 60, 20, 40]), None, CODE).notes
    assert note.startswith("1 of 1 pictures have a width and height in the labels")


def test_boxes_of_the_picture_on_its_side_are_refused(tmp_path: Path) -> None:
    file = on_its_side(tmp_path, (100, 80), [10, 10, 20, 20], [70, 10, 25, 20])
    words = (
        r"a\.jpg is 80x100 upright, but its label says 100x80 and has the box \[70\.0, 10\.0, 25\.0, 20\.0\]"
    )
    with pytest.raises(DatasetError, match=words):
        open_dataset(file, None, CODE)


@pytest.mark.parametrize("line", ["./images/c.jpg", "images/c.jpg", "images\\c.jpg"])
def test_data_yaml_chooses_by_a_list_of_pictures(tmp_path: Path, line: str) -> None:
    for name in ("a", "b", "c"):
        picture(tmp_path / f"images/{name}.jpg")
        text(tmp_path / f"labels/{name}.txt", "0 0.5 0.5 0.5 0.5\n")
    text(tmp_path / "val.txt", f"{line}\n")
    text(tmp_path / "data.yaml", "train: train.txt\nval: val.txt\nnames: [code]\n")
    assert scored(tmp_path) == scored(tmp_path / "data.yaml") == ["c"]


def test_a_split_that_is_absent_is_not_another_one(tmp_path: Path) -> None:
    for name in ("train/a", "train/b"):
        picture(tmp_path / f"images/{name}.jpg")
        text(tmp_path / f"labels/{name}.txt", "0 0.5 0.5 0.5 0.5\n")
    text(tmp_path / "data.yaml", "train: images/train\nval: images/val\nnames: [code]\n")
    with pytest.raises(DatasetError, match="val is images/val, which is not in"):
        open_dataset(tmp_path, None, CODE)


@pytest.mark.parametrize("nothing", ["", "null", "~", "[]"])
def test_a_split_that_is_null_is_none(tmp_path: Path, nothing: str) -> None:
    folder = splits(tmp_path)
    text(folder / "data.yaml", f"train: images/train\nval: {nothing}\nnames: [code]\n")
    assert scored(folder) == scored(folder / "data.yaml") == ["a", "b"]
