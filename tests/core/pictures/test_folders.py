from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from detserve_core.datasets import open_dataset
from detserve_core.errors import SourceError
from detserve_core.picture_sources import expand_sources


def picture(path: Path, kind: str = "JPEG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30)).save(path, kind)
    return path


def names(folder: Path) -> list[str]:
    return [found.name.as_posix() for found in expand_sources([str(folder)])]


def test_a_folder_that_is_a_link_is_entered_and_none_twice_in_itself(tmp_path: Path) -> None:
    picture(tmp_path / "tree/real/a.jpg")
    picture(tmp_path / "store/b.jpg")
    (tmp_path / "tree/linked").symlink_to("../store")
    (tmp_path / "store/back").symlink_to("../tree")
    (tmp_path / "tree/itself").symlink_to("itself")
    assert names(tmp_path / "tree") == ["linked/b.jpg", "real/a.jpg"]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_a_file_without_a_suffix_is_known_by_its_first_bytes(tmp_path: Path, kind: str) -> None:
    picture(tmp_path / "0f3a", kind)
    (tmp_path / "README").write_text("BMW and other cars")
    (tmp_path / "empty").touch()
    picture(tmp_path / "._b", kind)
    assert names(tmp_path) == ["0f3a"]


def test_a_folder_of_text_has_no_picture(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("nothing to see")
    with pytest.raises(SourceError, match="has no picture"):
        expand_sources([str(tmp_path)])


def test_a_yolo_folder_of_links_is_that_of_folders(tmp_path: Path) -> None:
    for kind in ("train", "val"):
        picture(tmp_path / f"store/images_{kind}/a.jpg")
        (tmp_path / f"store/labels_{kind}").mkdir()
        (tmp_path / f"store/labels_{kind}/a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "store/images_val/._a.jpg").write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / "store/labels_val/._a.txt").write_bytes(b"\x00\x05\x16\x07")
    for kind in ("images", "labels"):
        (tmp_path / f"set/{kind}").mkdir(parents=True)
        (tmp_path / f"set/{kind}/val").symlink_to(f"../../store/{kind}_val")
    dataset = open_dataset(tmp_path / "set", None, ["code"])
    (only,) = dataset.read()
    assert (only.boxes_xywh.tolist(), dataset.notes) == ([[10, 7.5, 20, 15]], ())


def test_voc_annotations_in_a_folder_that_is_a_link(tmp_path: Path) -> None:
    picture(tmp_path / "set/JPEGImages/a.jpg")
    (tmp_path / "store").mkdir()
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>"
    (tmp_path / "store/a.xml").write_text(
        f"<annotation><filename>a.jpg</filename><object><name>code</name>{box}</object></annotation>"
    )
    (tmp_path / "store/._a.xml").write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / "set/Annotations").mkdir()
    (tmp_path / "set/Annotations/more").symlink_to("../../store")
    assert open_dataset(tmp_path / "set", None, ["code"]).pictures == 1
