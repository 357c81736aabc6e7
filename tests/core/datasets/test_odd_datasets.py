"""Annotations as they are found: read right, or one sentence with the file, the entry and what is right."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detserve_core.datasets import AnnotatedPicture, Dataset, open_dataset
from detserve_core.datasets.average_precision import AveragePrecision
from detserve_core.datasets.errors import DatasetError
from detserve_core.detections import Detections
from tests.core.datasets.test_datasets import BOX, picture, text, voc_xml

CARD = ("dog", "cat")
COCO: dict[str, Any] = {
    "images": [
        {"id": 1, "file_name": "a.jpg", "width": 100, "height": 80},
        {"id": 2, "file_name": "b.jpg", "width": 100, "height": 80},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 30, 40], "area": 900, "iscrowd": 0},
        {"id": 2, "image_id": 2, "category_id": 2, "bbox": [0.5, 0, 99.5, 80]},
    ],
    "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
}
NINE = "<size><width>9</width><height>9</height></size>"
DEEP = "[" * 2_000
HUGE = 10**400


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for name in ("a.jpg", "b.jpg", "train/c.jpg"):
        picture(folder / name)
    return folder


def with_(where: str, value: Any) -> dict[str, Any]:
    """COCO with one value changed: ``annotations.0.bbox``; DROP takes it away."""
    content = copy.deepcopy(COCO)
    *path, last = [int(part) if part.isdecimal() else part for part in where.split(".")]
    at: Any = content
    for part in path:
        at = at[part]
    if value is DROP:
        del at[last]
    else:
        at[last] = value
    return content


DROP = object()
Row = tuple[str, list[list[float]], list[str]]


def rows(dataset: Dataset) -> list[Row]:
    """Name, boxes and names of the classes of each picture."""
    return [
        (p.path.name, p.boxes_xywh.tolist(), [dataset.labels[index] for index in p.classes])
        for p in dataset.read()
    ]


AS_IT_IS = [("a.jpg", [[10, 20, 30, 40]], ["dog"]), ("b.jpg", [[0.5, 0, 99.5, 80]], ["cat"])]


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("images.0.id", 1.0),
        ("images.0.id", "1"),
        ("annotations.0.image_id", "1"),
        ("annotations.0.category_id", 1.0),
        ("annotations.0.id", 2),
        ("annotations.0.id", DROP),
        ("annotations.0.area", HUGE),
        ("annotations.0.area", float("nan")),
        ("annotations.0.iscrowd", None),
        ("annotations.0.iscrowd", DROP),
        ("annotations.0.segmentation", {"size": [80, 100], "counts": "RLE"}),
        ("annotations.0.segmentation", [[1, 2, "x"]]),
        ("images.0.width", 0),
        ("images.0.file_name", "train/a.jpg"),
        ("images.0.file_name", "C:\\data\\a.jpg"),
        ("images.0.file_name", "/elsewhere/images/a.jpg"),
        ("categories.0.name", " dog "),
        ("info", [[["anything"]]]),
    ],
)
def test_coco_that_is_odd_and_read_right(tmp_path: Path, images: Path, where: str, value: object) -> None:
    file = text(tmp_path / "labels.json", json.dumps(with_(where, value)))
    assert rows(open_dataset(file, images, CARD)) == AS_IT_IS


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_coco_in_other_encodings(tmp_path: Path, images: Path, encoding: str) -> None:
    (tmp_path / "labels.json").write_text(json.dumps(COCO), encoding=encoding)
    assert rows(open_dataset(tmp_path / "labels.json", images, CARD)) == AS_IT_IS


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        ("images", [], "is empty: its list 'images' has no entry"),
        ("images", {}, "has no list 'images'"),
        ("images.1", "b.jpg", r"images\[1\] is b\.jpg; expected an object with id, file_name"),
        ("images.1.id", DROP, r"images\[1\] has no 'id'"),
        ("images.1.id", None, r"images\[1\] has the id None; expected a whole number or text"),
        ("images.1.id", 1.5, r"has the id 1\.5; expected a whole number"),
        ("images.1.id", True, "has the id True; expected a whole number"),
        ("images.1.id", 1, "two entries of 'images' have the same id 1"),
        ("images.1.file_name", DROP, r"images\[1\] has no 'file_name'"),
        ("images.1.file_name", "", r"images\[1\] has the file_name ''; expected text"),
        ("images.1.file_name", ["b.jpg"], r"has the file_name \['b\.jpg'\]; expected text"),
        ("images.1.file_name", "x/gone.jpg", r"1 of 2 annotated pictures are not in .*, gone\.jpg for one"),
        ("images.1.file_name", "a\0.jpg", r"not in .*, 'a\\x00\.jpg' for one"),
        ("images.1.file_name", "\ud800.jpg", r"'\\ud800\.jpg' for one"),
        ("images.1.file_name", "x" * 5000, r"xxx\.\.\. for one"),
        (
            "images.1.file_name",
            "train/a.jpg",
            r"a\.jpg is annotated 2 times; expected all of",
        ),
        ("images.1.width", "100", r"images\[1\] has the width 100; expected a number"),
        ("annotations.1.area", "large", r"annotations\[1\] has the area large; expected a number"),
        ("categories.1.name", " dog ", "2 entries of 'categories' have the name dog; expected names that"),
        ("images.1.width", 640, r"b\.jpg is 100x80, but its label says 640x80; give the pictures that"),
        ("categories", [], "is empty: its list 'categories'"),
        ("categories.1.name", 7, r"categories\[1\] has the name 7; expected text"),
        ("categories.1.name", "", r"categories\[1\] has the name ''; expected text"),
        ("categories.1.id", DROP, r"categories\[1\] has no 'id'"),
        ("categories.1.id", 1, "two entries of 'categories' have the same id 1"),
        ("annotations", [], "is empty: its list 'annotations'"),
        ("annotations", DROP, "has no list 'annotations'"),
        ("annotations.1", [1, 2], r"annotations\[1\] is \[1, 2\]; expected an object"),
        ("annotations.1.image_id", 9, r"annotations\[1\] has the image_id 9, .* none of 'images'; add the"),
        ("annotations.1.image_id", {}, r"annotations\[1\] has the image_id {}; expected a whole number"),
        ("annotations.1.category_id", 9, r"annotations\[1\] has the category_id 9, .* none of 'categories'"),
        ("annotations.1.category_id", DROP, r"annotations\[1\] has no 'category_id'"),
        (
            "annotations.1.bbox",
            [1, 2, 3],
            r"has the bbox \[1, 2, 3\]; expected x, y, width, height in pixels",
        ),
        ("annotations.1.bbox", [1, 2, "3", 4], r"has the bbox \[1, 2, '3', 4\]; expected x, y"),
        ("annotations.1.bbox", [1, 2, -3, 4], r"has the bbox \[1, 2, -3, 4\]; expected x, y"),
        ("annotations.1.bbox", [0, 0, float("inf"), 4], r"has the bbox \[0, 0, inf, 4\]; expected x, y"),
        ("annotations.1.bbox", [0, 0, float("nan"), 4], r"has the bbox \[0, 0, nan, 4\]; expected x, y"),
        ("annotations.1.bbox", [0, 0, HUGE, 4], r"has the bbox \[0, 0, 1000.*\.\.\.; expected x, y"),
        ("annotations.1.bbox", [0, 0, 1e300, 1e300], r"has the bbox .*; expected x, y"),
        ("annotations.1.bbox", [True, 0, 9, 9], r"has the bbox \[True, 0, 9, 9\]; expected x, y"),
        ("annotations.1.bbox", None, r"has the bbox None; expected x, y"),
        (
            "annotations.1.bbox",
            [40, 30, 90, 70],
            r"1 of 2 boxes reach far out .* in b\.jpg, which is 100x80",
        ),
        ("annotations.1.iscrowd", "0", r"annotations\[1\] has the iscrowd 0; expected 0 or 1"),
    ],
)
def test_coco_that_is_refused(tmp_path: Path, images: Path, where: str, value: object, words: str) -> None:
    file = text(tmp_path / "labels.json", json.dumps(with_(where, value)))
    with pytest.raises(DatasetError, match=words) as refusal:
        open_dataset(file, images, CARD)
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).isprintable()


def test_coco_in_fractions_is_refused(tmp_path: Path, images: Path) -> None:
    content = copy.deepcopy(COCO)
    for annotation in content["annotations"]:
        annotation["bbox"] = [0.1, 0.2, 0.5, 0.5]
    with pytest.raises(DatasetError, match=r"labels\.json: no box reaches beyond 2 pixels, as fractions"):
        open_dataset(text(tmp_path / "labels.json", json.dumps(content)), images, CARD)


@pytest.mark.parametrize("content", [DEEP, '{"images": ' + "9" * 5000 + "}", "", "\xff", '{"images": [1}'])
def test_json_that_is_none(tmp_path: Path, images: Path, content: str) -> None:
    (tmp_path / "labels.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(
        DatasetError, match=r"labels\.json is not JSON \(.*\); expected a COCO instances\.json"
    ):
        open_dataset(tmp_path / "labels.json", images, CARD)


def test_a_picture_below_a_folder_is_found_by_its_path(tmp_path: Path, images: Path) -> None:
    file = text(tmp_path / "labels.json", json.dumps(with_("images.0.file_name", "train/c.jpg")))
    first = next(open_dataset(file, images, CARD).read())
    assert first.path == images / "train/c.jpg"


def test_classes_of_one_name_are_one(tmp_path: Path, images: Path) -> None:
    """Roboflow writes the class a second time as the supercategory of itself."""
    dataset = open_dataset(
        text(tmp_path / "labels.json", json.dumps(with_("categories.1.name", "Dog"))), images, CARD
    )
    scored = AveragePrecision(CARD, dataset.labels)
    for annotated in dataset.read():
        corners = annotated.boxes_xywh.astype(np.float32)
        corners[:, 2:] += corners[:, :2]
        found = Detections(corners, np.ones(1, np.float32), np.zeros(1, np.int32), CARD)
        scored.update(annotated, found)
    table = scored.result()[0]
    assert (table.boxes, table.ap) == (2, pytest.approx(1))


def yolo(folder: Path, **files: str) -> Path:
    for name in ("images/a.jpg", "images/b.jpg"):
        picture(folder / name)
    text(folder / "labels/a.txt", "0 .25 .5 .3 .5\n")
    return folder


def in_data_yaml(folder: Path, content: str) -> Path:
    return text(folder / "data.yaml", content)


@pytest.mark.parametrize(
    ("labels", "yaml"),
    [
        ("\ufeff0 .25 .5 .3 .5\n", ""),
        ("0.0\t.25 .5   .3 .5\r\n\r\n", ""),
        ("0 .1 .25 .4 .25 .4 .75 .1 .75", ""),  # an outline, of which the box counts
        ("0 .1 .25 .4 .5 .2 .75", ""),
        ("0 .25 .5 .3 .5  .2 .4 2  .3 .6 0", "kpt_shape: [2, 3]"),
        ("0 .25 .5 .3 .5  .2 .4  .3 .6", "kpt_shape: [2, 2]"),
    ],
)
def test_lines_of_a_yolo_file(tmp_path: Path, labels: str, yaml: str) -> None:
    folder = yolo(tmp_path / "set")
    (folder / "labels/a.txt").write_bytes(labels.encode())
    if yaml:
        in_data_yaml(folder, f"names: [dog, cat]\n{yaml}\n")
    ((name, boxes, names), _) = rows(open_dataset(folder, None, CARD))
    assert (name, names) == ("a.jpg", ["dog"])
    np.testing.assert_allclose(boxes, [[10, 20, 30, 40]])


@pytest.mark.parametrize(
    ("yaml", "images", "labels"),
    [
        ("val: images\nnames: [dog, cat]", "images", "labels"),
        ("path: .\nval: [images]\nnames: {0: dog, 1: cat}", "images", "labels"),
        ("train: ../train/images\nval: ../valid/images\nnames: [dog, cat]", "valid/images", "valid/labels"),
        ("test: pictures\nnames: [dog, cat]", "pictures", "pictures"),
        ("val: list.txt\nnames: [dog, cat]", "images", "labels"),
    ],
)
def test_a_data_yaml_says_where_the_pictures_are(tmp_path: Path, yaml: str, images: str, labels: str) -> None:
    picture(tmp_path / "set" / images / "a.jpg")
    text(tmp_path / "set" / labels / "a.txt", "0 .25 .5 .3 .5\n")
    text(tmp_path / "set/list.txt", "./images/a.jpg\n\n")
    file = in_data_yaml(tmp_path / "set", yaml)
    ((name, boxes, names),) = rows(open_dataset(file, None, ()))
    assert (name, names) == ("a.jpg", ["dog"])
    np.testing.assert_allclose(boxes, [[10, 20, 30, 40]])
    assert rows(open_dataset(file, tmp_path / "set" / images, ())) == [(name, boxes, names)]


def test_labels_beside_the_pictures_or_in_a_folder_of_another_name(tmp_path: Path) -> None:
    folder = yolo(tmp_path)
    expected = rows(open_dataset(folder, None, CARD))
    (folder / "labels").rename(folder / "labels_yolo")
    assert rows(open_dataset(folder / "labels_yolo", None, CARD)) == expected
    (folder / "labels_yolo/a.txt").rename(folder / "images/a.txt")
    assert rows(open_dataset(folder / "images", None, CARD)) == expected


def test_names_are_text_whatever_yaml_takes_them_for(tmp_path: Path) -> None:
    in_data_yaml(yolo(tmp_path / "set"), "names: [no, 1, null, 2026-11-30, 0x10]")
    assert open_dataset(tmp_path / "set", None, CARD).labels == ("no", "1", "null", "2026-11-30", "0x10")


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        (
            "labels/a.txt",
            "0 .25 .5 .3 .5 .9",
            r"a\.txt: line 1 is 0 .25 .5 .3 .5 .9; expected class",
        ),
        (
            "labels/a.txt",
            "0 .25 .5 .3 .5\n\n1e9 .2 .2 .1 .1",
            r"line 3 has the class 1e9; expected 0 to",
        ),
        ("labels/a.txt", "0 .1 .25 .4 .25 .4 7.5", r"a\.txt: line 1 has the box .*; expected fractions"),
        ("labels/a.txt", "0 .25 .5 -.3 .5", r"a\.txt: line 1 has the box .*; expected fractions"),
        ("labels/a.txt", "dog .25 .5 .3 .5", r"a\.txt: line 1 is dog .25 .5 .3 .5; expected class"),
        ("labels/a.txt", "\0\0", r"a\.txt: line 1 is '\\x00\\x00'; expected class"),
        ("data.yaml", "names: [[a], b]", r"data\.yaml has no 'names'; expected a list of names"),
        ("data.yaml", "names: {a: b}", r"data\.yaml has no 'names'"),
        ("data.yaml", "[1, 2]", r"data\.yaml has no 'names'"),
        ("data.yaml", DEEP, r"data\.yaml is not YAML"),
        (
            "data.yaml",
            "names: &a [*a]",
            r"data\.yaml is not YAML: line 1: found unconst",
        ),
        ("data.yaml", "names: \x07", r"data\.yaml is not YAML"),
    ],
)
def test_a_yolo_folder_that_is_refused(tmp_path: Path, file: str, content: str, words: str) -> None:
    text(yolo(tmp_path / "set") / file, content)
    with pytest.raises(DatasetError, match=words) as refusal:
        open_dataset(tmp_path / "set", None, CARD)
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize(
    ("yaml", "words"),
    [
        ("names: [dog]", r"data\.yaml names no pictures; expected a folder"),
        ("names: [dog]\nval: {a: b}", r"data\.yaml names no pictures"),
        ("names: [dog]\nval: gone/images", r"val is gone/images, which is not in .*; fix it or give"),
        ("names: [dog]\nval: images\npath: {}", "annotates 2 pictures with no box at all"),
    ],
)
def test_a_data_yaml_that_is_refused(tmp_path: Path, yaml: str, words: str) -> None:
    text(yolo(tmp_path / "set") / "labels/a.txt", "")
    with pytest.raises(DatasetError, match=words):
        open_dataset(in_data_yaml(tmp_path / "set", yaml), None, CARD)


def test_xml_beside_the_pictures(tmp_path: Path) -> None:
    picture(tmp_path / "a.JPG")
    text(tmp_path / "a.xml", "\ufeff" + voc_xml(f"<name>dog</name>{BOX}", filename="C:\\old\\a.png"))
    assert rows(open_dataset(tmp_path, None, CARD)) == [("a.JPG", [[10, 20, 30, 40]], ["dog"])]


@pytest.mark.parametrize(
    ("xml", "words"),
    [
        (
            voc_xml(f"<name>dog</name><difficult>maybe</difficult>{BOX}"),
            "has the <difficult> maybe",
        ),
        (
            voc_xml(f"<name>dog</name>{BOX.replace('40', 'inf')}"),
            r"a\.xml: a box has .*xmax inf",
        ),
        (
            voc_xml(f"<name>dog</name>{BOX.replace('40', '1e9')}"),
            r"a\.xml: a box has .*xmax 1e9",
        ),
        (
            voc_xml(f"<name>dog</name>{BOX}").replace(
                "<object>", "<size><width>9</width><height>9</height></size><object>"
            ),
            r"a\.jpg is 100x80, but its label says 9x9; give the pictures",
        ),
        (
            voc_xml(
                "<name>dog</name><bndbox><xmin>.1</xmin><ymin>.1</ymin><xmax>.9</xmax><ymax>1</ymax></bndbox>"
            ),
            "no box reaches beyond 2 pixels, as fractions",
        ),
    ],
)
def test_a_voc_folder_that_is_refused(tmp_path: Path, xml: str, words: str) -> None:
    picture(tmp_path / "JPEGImages/a.jpg")
    text(tmp_path / "Annotations/a.xml", xml)
    with pytest.raises(DatasetError, match=words):
        open_dataset(tmp_path, None, CARD)


ODD = st.one_of(
    st.sampled_from(
        [DROP, None, True, -1, 0, 1, 2, 7, HUGE, 1e308, float("nan"), float("inf"), "", "1", "a.jpg"]
    ),
    st.sampled_from([[], {}, [[]], [0, 0, 9, 9], ["0"] * 4, "\0", "\ud800", "../a.jpg", "a/b" * 999]),
    st.floats(),
    st.integers(),
    st.text(max_size=5),
)
PLACES = [
    *("images", "annotations", "categories", "images.0", "annotations.1", "categories.0", "images.1.id"),
    *("images.0.file_name", "images.0.width", "images.1.height", "categories.0.id", "categories.1.name"),
    *("annotations.0.image_id", "annotations.0.category_id", "annotations.1.bbox", "annotations.0.bbox.2"),
    *("annotations.1.bbox.0", "annotations.0.area", "annotations.1.iscrowd", "annotations.0.segmentation"),
]


def read_or_refused(path: Path, images: Path | None, named: Callable[[str], bool]) -> None:
    """Nothing else may come of it."""
    refusal = ""
    try:
        dataset = open_dataset(path, images, CARD)
    except DatasetError as error:
        refusal = str(error)
    if refusal:
        assert refusal.isprintable()
        assert named(refusal)
        return
    pictures: list[AnnotatedPicture] = list(dataset.read())
    assert len(pictures) == dataset.pictures
    assert len({p.path for p in pictures}) == len(pictures)
    for p in pictures:
        assert p.path.is_file()
        assert np.isfinite(p.boxes_xywh).all()
        assert (p.boxes_xywh[:, 2:] >= 0).all()
        assert ((p.classes >= 0) & (p.classes < len(dataset.labels))).all()
        assert np.isfinite(p.areas_px).all()
    scored = AveragePrecision(dataset.labels, dataset.labels)
    for p in pictures:
        scored.update(p, Detections.empty(dataset.labels))
    assert scored.result()[0].ap in (0, None)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.sampled_from(PLACES), ODD), min_size=1, max_size=3))
def test_any_change_of_a_coco_file_is_read_or_refused(tmp_path: Path, images: Path, changes: Any) -> None:
    content = copy.deepcopy(COCO)
    for where, value in changes:
        content = changed(content, where, value)
    file = text(tmp_path / "labels.json", json.dumps(content))
    read_or_refused(file, images, lambda sentence: "labels.json" in sentence or str(images) in sentence)


def changed(content: Any, where: str, value: Any) -> Any:
    """The content with the place changed, if it is still there."""
    *path, last = [int(part) if part.isdecimal() else part for part in where.split(".")]
    at = content
    try:
        for part in path:
            at = at[part]
        if value is DROP:
            del at[last]
        else:
            at[last] = copy.deepcopy(value)
    except (KeyError, IndexError, TypeError):
        pass
    return content


PIECES = st.sampled_from(
    [
        "0",
        "1",
        ".5",
        " ",
        "\n",
        "-",
        "e",
        "nan",
        "9" * 400,
        "\ufeff",
        "\0",
        "é",
        "_",
        "1 .5 .5 .2 .2\n",
        "<",
        "&",
    ]
)
FILES = {
    "yolo": ("labels/a.txt", "0 .25 .5 .3 .5\n1 .5 .5 .2 .2\n"),
    "yaml": ("data.yaml", "names:\n  0: dog\n  1: cat\nval: images\n"),
    "voc": ("Annotations/a.xml", voc_xml(f"<name>dog</name><difficult>0</difficult>{BOX}")),
}


@pytest.mark.parametrize("kind", FILES)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 200), length=st.integers(0, 30), pieces=st.lists(PIECES, max_size=4))
def test_any_change_of_a_text_is_read_or_refused(
    tmp_path: Path, kind: str, start: int, length: int, pieces: list[str]
) -> None:
    folder = tmp_path / kind
    if kind == "voc":
        picture(folder / "JPEGImages/a.jpg")
    else:
        yolo(folder)
    name, content = FILES[kind]
    at = start % (len(content) + 1)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(content[:at] + "".join(pieces) + content[at + length :], encoding="utf-8")
    path = folder / "data.yaml" if kind == "yaml" else folder
    read_or_refused(path, None, lambda sentence: str(folder) in sentence)
