"""The ids of a COCO data set, by the names of pictures and classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from detserve_core.datasets.coco_ids import coco_ids
from detserve_core.datasets.errors import DatasetError
from detserve_core.detections import Detections


def written(folder: Path, images: list[dict], categories: list[dict]) -> Path:
    box = {"image_id": images[0]["id"], "category_id": categories[0]["id"], "bbox": [1, 1, 2, 2]}
    path = folder / "instances.json"
    path.write_text(json.dumps({"images": images, "categories": categories, "annotations": [box]}))
    return path


CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}]


def test_a_picture_is_known_by_the_end_of_its_path(tmp_path: Path) -> None:
    images = [
        {"id": 7, "file_name": "a.jpg"},
        {"id": 0, "file_name": "val/a.jpg"},
        {"id": "x", "file_name": "b.jpg"},
    ]
    ids = coco_ids(written(tmp_path, images, CATEGORIES))
    assert ids.image_id(Path("/data/val/a.jpg")) == 0
    assert ids.image_id(Path("/data/train/a.jpg")) == 7
    assert ids.image_id(Path("b.jpg")) == "x"
    assert ids.categories == {"dog": 18, "car": 3}
    with pytest.raises(DatasetError, match="has no image 'c.jpg'; give the pictures of that data set"):
        ids.image_id(Path("c.jpg"))
    with pytest.raises(DatasetError, match="has no image 'aa.jpg'"):
        ids.image_id(Path("aa.jpg"))


@pytest.mark.parametrize("what", ["images", "categories"])
def test_two_of_one_name_are_refused(tmp_path: Path, what: str) -> None:
    images, categories = [{"id": 1, "file_name": "a.jpg"}], [{"id": 1, "name": "dog"}]
    for entries in (images, categories):
        if entries is (images if what == "images" else categories):
            entries.append({**entries[0], "id": 2})
    with pytest.raises(DatasetError, match=f"has two {what} of one name"):
        coco_ids(written(tmp_path, images, categories))


def test_a_detector_of_other_classes_is_refused(tmp_path: Path) -> None:
    ids = coco_ids(written(tmp_path, [{"id": 1, "file_name": "a.jpg"}], CATEGORIES))
    ids.check_classes(["cat", "dog"])
    with pytest.raises(
        DatasetError, match="categories dog, car, and none of the detector's classes qr, aztec"
    ):
        ids.check_classes(["qr", "aztec"])


def test_names_are_paired_as_average_precision_pairs_them(tmp_path: Path) -> None:
    """Case does not count; where two differ by it alone, each is itself."""
    boxes, classes = np.array([[0, 0, 4, 4]] * 3, np.float32), np.arange(3, dtype=np.int32)
    found = Detections(boxes, np.ones(3, np.float32), classes, ("DOG", "car ", "qr"))
    ids = coco_ids(written(tmp_path, [{"id": 1, "file_name": "a.jpg"}], CATEGORIES))
    ids.check_classes(["Dog"])
    assert [row["category_id"] for row in found.to_coco(1, ids.categories)] == [18, 3]
    assert [row["category_id"] for row in found.to_coco(1, {"dog": 7, "DOG": 8})] == [8]
    assert [row["category_id"] for row in found.to_coco(1, {"dog": 7, "Dog": 8})] == [7]


@pytest.mark.parametrize("name", ["val/a.jpg", "./val/a.jpg", "val\\a.jpg", "/val/a.jpg", " val/a.jpg "])
def test_a_path_is_read_as_the_data_set_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "val").mkdir()
    monkeypatch.chdir(tmp_path / "val")
    ids = coco_ids(written(tmp_path, [{"id": 1, "file_name": name}], CATEGORIES))
    assert ids.image_id(Path("a.jpg")) == 1
    assert ids.image_id(Path("/data/val/a.jpg")) == 1
    with pytest.raises(DatasetError, match=r"has val/a\.jpg, in which /data/a\.jpg does not end"):
        ids.image_id(Path("/data/a.jpg"))
