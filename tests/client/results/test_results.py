from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detserve_client import Detected, Detections, Failed, Outcome, OutputError, RequestRejected
from detserve_client.results.run_files import coco_image_ids, write_coco, write_json
from detserve_core.machine.whole_files import write_whole


@pytest.fixture
def outcomes(found: Detections) -> list[Outcome]:
    return [
        Detected(Path("x/000000000139.jpg"), found),
        Failed(Path("torn.jpg"), RequestRejected("the picture is rejected: torn")),
        Detected(Path("dog.jpg"), found.of("dog")),
    ]


def test_json(tmp_path: Path, outcomes: list[Outcome], found: Detections) -> None:
    write_json(tmp_path / "new" / "out.json", outcomes)
    assert json.loads((tmp_path / "new" / "out.json").read_text()) == [
        {"source": "x/000000000139.jpg", "detections": found.to_dicts()},
        {"source": "torn.jpg", "error": "the picture is rejected: torn"},
        {"source": "dog.jpg", "detections": found.of("dog").to_dicts()},
    ]


def test_coco(tmp_path: Path, outcomes: list[Outcome]) -> None:
    write_coco(tmp_path / "out.json", outcomes)
    rows = json.loads((tmp_path / "out.json").read_text())
    assert [(row["image_id"], row["category_id"], row["score"]) for row in rows] == [
        (139, 1, 0.86),
        (139, 0, 0.31),
        (2, 1, 0.86),
    ]


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["a", "b"], [1, 2]),
        (["000139", "a", "2"], [139, 1, 2]),
        (["a", "1", "b", "²"], [2, 1, 3, 4]),
        (["x/7", "y/7"], [7, 1]),
    ],
)
def test_image_ids(names: list[str], ids: list[int]) -> None:
    assert coco_image_ids([Path(f"{name}.jpg") for name in names]) == ids


@given(st.lists(st.sampled_from(["a", "b", "1", "01", "2", "3", "17"])))
def test_image_ids_are_unique(names: list[str]) -> None:
    ids = coco_image_ids([Path(f"{name}.jpg") for name in names])
    assert len(set(ids)) == len(names)


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(OutputError, match="taken cannot be written: "):
        write_whole(tmp_path / "taken", b"new")
    with pytest.raises(OutputError, match="cannot be written: "):
        write_whole(tmp_path / "taken" / "file" / "below", b"new")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "taken"]


def test_an_old_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a longer old content")
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]
