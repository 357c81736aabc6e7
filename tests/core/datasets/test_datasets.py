"""COCO, YOLO and Pascal VOC as annotated pictures, and what is said about files that are none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detserve_core.datasets import AnnotatedPicture, Dataset, open_dataset
from detserve_core.datasets.errors import DatasetError

CARD = ("face", "dog", "qr code")
BOX = "<bndbox><xmin>11</xmin><ymin>21</ymin><xmax>40</xmax><ymax>60</ymax></bndbox>"


def picture(path: Path, size_wh: tuple[int, int] = (100, 80), orientation: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size_wh).save(path, exif=exif)
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def voc_xml(*objects: str, filename: str = "a.jpg") -> str:
    entries = "".join(f"<object>{entry}</object>" for entry in objects)
    return f"<annotation><filename>{filename}</filename>{entries}</annotation>"


def coco(folder: Path) -> Path:
    picture(folder / "images/a.jpg")
    picture(folder / "images/b.jpg")
    content = {
        "images": [{"id": 6, "file_name": "b.jpg"}, {"id": 5, "file_name": "a.jpg"}],
        "categories": [{"id": 7, "name": "qr code"}, {"id": 3, "name": "dog"}],
        "annotations": [
            {"image_id": 5, "category_id": 7, "bbox": [1, 2, 3, 4], "segmentation": [[1, 2, 3, 4, 5, 6]]},
            {"image_id": 5, "category_id": 3, "bbox": [5, 6, 7, 8], "area": 20.5, "iscrowd": 1},
        ],
    }
    return text(folder / "instances.json", json.dumps(content))


def yolo(folder: Path) -> Path:
    picture(folder / "images/a.jpg")
    text(folder / "labels/a.txt", "2 0.5 0.25 0.2 0.5\n\n0 0.1 0.1 0.2 0.2\n")
    return folder


def voc(folder: Path) -> Path:
    picture(folder / "JPEGImages/a.jpg")
    objects = (f"<name>qr code</name>{BOX}", f"<name>dog</name><difficult>1</difficult>{BOX}")
    text(folder / "Annotations/a.xml", voc_xml(*objects))
    return folder


def read(path: Path, images: Path | None = None) -> tuple[Dataset, list[AnnotatedPicture]]:
    dataset = open_dataset(path, images, CARD)
    pictures = list(dataset.read())
    assert len(pictures) == dataset.pictures
    return dataset, pictures


def test_coco(tmp_path: Path) -> None:
    dataset, (first, second) = read(coco(tmp_path))
    assert (dataset.format, dataset.labels) == ("COCO", ("dog", "qr code"))
    assert [first.path.name, second.path.name] == ["a.jpg", "b.jpg"]
    assert first.boxes_xywh.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert first.classes.tolist() == [1, 0]
    assert first.areas_px.tolist() == [12, 20.5]
    assert first.crowd.tolist() == [False, True]
    assert len(second.classes) == 0
    assert second.boxes_xywh.shape == (0, 4)


def test_coco_pictures_may_lie_beside_the_file_or_elsewhere(tmp_path: Path) -> None:
    file = coco(tmp_path)
    (tmp_path / "images").rename(tmp_path / "val")
    assert read(file, tmp_path / "val")[1][0].path == tmp_path / "val/a.jpg"
    for path in (tmp_path / "val").iterdir():
        path.rename(tmp_path / path.name)
    assert read(file)[1][0].path == tmp_path / "a.jpg"


def test_yolo(tmp_path: Path) -> None:
    picture(yolo(tmp_path) / "images/sub/b.png")
    dataset, (first, second) = read(tmp_path)
    assert (dataset.format, dataset.labels) == ("YOLO", CARD)
    assert first.boxes_xywh == pytest.approx(np.array([[40, 0, 20, 40], [0, 0, 20, 16]]))
    assert first.areas_px == pytest.approx(np.array([800, 320]))
    assert first.classes.tolist() == [2, 0]
    assert (second.path.name, len(second.classes)) == ("b.png", 0)
    assert dataset.notes == ("1 of 2 pictures have no label file: taken to show nothing",)


def test_yolo_fractions_are_of_the_upright_picture(tmp_path: Path) -> None:
    picture(yolo(tmp_path) / "images/a.jpg", (100, 80), orientation=6)
    assert read(tmp_path)[1][0].boxes_xywh[0] == pytest.approx(np.array([32, 0, 16, 50]))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("data.yaml", "train: x\nnames: [a, b, c]\n"),
        ("../data.yaml", "names:\n  0: a\n  2: c\n  1: b\n"),
        ("my.names", "a\nb\nc\n"),
        ("classes.txt", "a\nb\nc\n"),
        ("labels/classes.txt", "a\nb\nc\n"),
    ],
)
def test_yolo_names_say_otherwise(tmp_path: Path, name: str, content: str) -> None:
    folder = yolo(tmp_path / "set")
    text(folder / name, content)
    assert read(folder)[0].labels == ("a", "b", "c")


def test_voc(tmp_path: Path) -> None:
    dataset, (only,) = read(voc(tmp_path))
    assert (dataset.format, dataset.labels) == ("Pascal VOC", ("dog", "qr code"))
    assert only.path == tmp_path / "JPEGImages/a.jpg"
    assert only.boxes_xywh.tolist() == [[10, 20, 30, 40]] * 2
    assert only.classes.tolist() == [1, 0]
    assert only.difficult.tolist() == [False, True]


def test_voc_pictures_are_found_by_the_xmls_name_and_in_other_folders(tmp_path: Path) -> None:
    voc(tmp_path)
    text(tmp_path / "Annotations/a.xml", voc_xml(f"<name>dog</name>{BOX}", filename="gone.jpg"))
    (tmp_path / "JPEGImages").rename(tmp_path / "elsewhere")
    assert read(tmp_path, tmp_path / "elsewhere")[1][0].path == tmp_path / "elsewhere/a.jpg"


def _edit(path: str, content: str) -> Callable[[Path], object]:
    return lambda folder: text(folder / path, content)


def _drop(path: str) -> Callable[[Path], object]:
    return lambda folder: (folder / path).unlink()


@pytest.mark.parametrize(
    ("make", "spoil", "words"),
    [
        (yolo, _edit("labels/stray.txt", ""), r"1 of 2 label files have no picture in .*stray\.txt for one"),
        (
            yolo,
            _edit("labels/a.txt", "3 .5 .5 .1 .1"),
            r"line 1 has the class 3; expected 0 to 2, as the card",
        ),
        (yolo, _edit("labels/a.txt", "0.5 .5 .5 .1 .1"), r"line 1 has the class 0\.5; expected 0 to 2"),
        (yolo, _edit("labels/a.txt", "0 .5 .5 .1"), r"line 1 is 0 \.5 \.5 \.1; expected class, x"),
        (yolo, _edit("labels/a.txt", "0 .5 .5 .1 nan"), "expected class, x centre"),
        (yolo, _edit("labels/a.txt", "0 50 50 10 10"), "has the box 50 50 10 10; expected fractions"),
        (yolo, _edit("labels/a.txt", ""), "annotates 1 pictures with no box at all"),
        (yolo, _edit("data.yaml", "names: [a]"), r"has the class 2; expected 0 to 0, as data\.yaml names 1"),
        (yolo, _edit("data.yaml", "names: [a, b, a]"), r"data\.yaml: 'names' has a twice"),
        (yolo, _edit("data.yaml", "names: ["), r"data\.yaml is not YAML: "),
        (yolo, _edit("data.yaml", "nc: 3"), r"data\.yaml has no 'names'"),
        (yolo, _edit("data.yaml", "names: {0: a, 2: b}"), r"data\.yaml has no 'names'; .* from 0, 1, 2"),
        (yolo, _edit("my.names", "\n"), r"my\.names is empty; expected one class name a line"),
        (yolo, _edit("images/a.jpg", "no picture"), r"a\.jpg cannot be read as a picture"),
        (yolo, _drop("images/a.jpg"), "the dataset is empty: it annotates no picture"),
        (voc, _edit("Annotations/a.xml", "<annotation>"), r"a\.xml is not XML: no element found"),
        (voc, _edit("Annotations/a.xml", '<?xml version="1.0" encoding="x"?><a/>'), r"a\.xml is not XML: "),
        (
            voc,
            _edit("Annotations/a.xml", "<html/>"),
            "begins with <html>; expected Pascal VOC's <annotation>",
        ),
        (voc, _edit("Annotations/a.xml", voc_xml(BOX)), "an <object> has no <name>"),
        (voc, _edit("Annotations/a.xml", voc_xml("<name>a</name>")), "an <object> has no <bndbox>"),
        (voc, _edit("Annotations/a.xml", voc_xml(f"<name>a</name>{BOX.replace('40', '4')}")), "xmax 4, ymax"),
        (voc, _edit("Annotations/a.xml", voc_xml(f"<name>a</name>{BOX.replace('40', 'x')}")), "xmax x, ymax"),
        (voc, _edit("Annotations/a.xml", voc_xml()), "annotates 1 pictures with no box at all"),
        (voc, _drop("Annotations/a.xml"), "the dataset is empty: .*Annotations has no xml file"),
        (
            voc,
            _drop("JPEGImages/a.jpg"),
            r"1 of 1 annotated pictures are not in .*JPEGImages, a\.jpg for one",
        ),
    ],
)
def test_a_wrong_folder_is_one_sentence(
    tmp_path: Path, make: Callable[[Path], Path], spoil: Callable[[Path], object], words: str
) -> None:
    folder = make(tmp_path)
    spoil(folder)
    with pytest.raises(DatasetError, match=words):
        open_dataset(folder, None, CARD)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "is a list, as detections are written; expected a COCO instances.json"),
        ("7", "has no list 'images'"),
        ({"images": []}, "is empty: its list 'images' has no entry"),
        ({"images": [{"id": 1}]}, r"images\[0\] has no 'file_name'"),
        ({"annotations": {}}, "has no list 'annotations'"),
        ({"annotations": [{"image_id": 5, "category_id": 7, "bbox": [1, 2, 3]}]}, r"the bbox \[1, 2, 3\]"),
        ({"annotations": [{"image_id": 5, "category_id": 7, "bbox": [1, 2, -3, 4]}]}, "expected x, y, width"),
        ({"annotations": [{"image_id": 9, "category_id": 7, "bbox": [1, 2, 3, 4]}]}, "image_id 9, which is"),
        ({"annotations": [{"image_id": 5, "category_id": 1, "bbox": [1, 2, 3, 4]}]}, "category_id 1, which"),
        (
            {"categories": [{"id": 7, "name": "a"}, {"id": 7, "name": "b"}]},
            "two entries of 'categories' have",
        ),
        ({"images": [{"id": [5], "file_name": "a"}]}, r"images\[0\] has the id \[5\]; expected a whole"),
        ({"images": [{"id": 5, "file_name": 7}]}, r"images\[0\] has the file_name 7; expected text"),
        (
            {"images": [{"id": 5, "file_name": "x.jpg"}]},
            r"1 of 1 annotated pictures are not .*x\.jpg for one",
        ),
    ],
)
def test_a_file_that_is_no_coco_is_one_sentence(tmp_path: Path, change: object, words: str) -> None:
    file = coco(tmp_path)
    content = change if isinstance(change, str) else json.dumps({**json.loads(file.read_text()), **change})
    file.write_text(content)
    with pytest.raises(DatasetError, match=words):
        open_dataset(file, None, CARD)


def test_a_path_that_is_none_of_the_three_is_one_sentence(tmp_path: Path) -> None:
    expected = r"expected a COCO json file, a data\.yaml or a folder with images/ and labels/ \(YOLO\), or a"
    with pytest.raises(DatasetError, match=f"is not a dataset; {expected}"):
        open_dataset(tmp_path, None, CARD)
    with pytest.raises(DatasetError, match=f"there is no .*absent; {expected}"):
        open_dataset(tmp_path / "absent", None, CARD)
    with pytest.raises(DatasetError, match="absent is not a folder; --images takes"):
        open_dataset(yolo(tmp_path), tmp_path / "absent", CARD)
