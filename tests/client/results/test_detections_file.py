from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detserve_client import Detected, Detections, Failed, RequestRejected, SourceError
from detserve_client.results.detections_file import detections_of
from detserve_client.results.run_files import write_json

LABELS = ("cat", "dog", "bicycle")
coordinates = st.floats(0, 5000, width=32)
boxes = st.tuples(coordinates, coordinates, coordinates, coordinates)
rows = st.lists(st.tuples(boxes, st.floats(0, 1, width=32), st.integers(0, 2)), max_size=8)


@given(rows=rows)
def test_what_was_written_is_read(rows: list, tmp_path_factory: pytest.TempPathFactory) -> None:  # type: ignore[type-arg]
    corners = np.array([box for box, _, _ in rows], np.float32).reshape(-1, 4)
    written = Detections(
        np.concatenate(
            [np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])], 1
        ),
        np.array([score for _, score, _ in rows], np.float32),
        np.array([class_id for _, _, class_id in rows], np.int32),
        LABELS,
    )
    path = tmp_path_factory.mktemp("json") / "d.json"
    write_json(path, [Detected("a.jpg", written)])
    read = detections_of(path, Path("a.jpg"))
    for name in ("boxes", "scores", "classes"):
        assert np.array_equal(getattr(read, name), getattr(written, name))
    assert list(read) == list(written)
    path.write_text(json.dumps(written.to_dicts()))
    assert list(detections_of(path, Path("a.jpg"))) == list(written)


def test_which_picture_is_meant(tmp_path: Path, found: Detections) -> None:
    none, path = Detections.empty(LABELS), tmp_path / "d.json"
    write_json(path, [Detected("x/a.jpg", found), Detected("y/a.jpg", none), Detected("y/b.jpg", found)])
    assert len(detections_of(path, Path("x/a.jpg"))) == 2
    assert len(detections_of(path, Path("y/a.jpg"))) == 0
    assert len(detections_of(path, Path("z/b.jpg"))) == 2
    with pytest.raises(
        SourceError, match=r"does not say which detections are of z/a.jpg: 2 of its 3 pictures"
    ):
        detections_of(path, Path("z/a.jpg"))
    with pytest.raises(SourceError, match=r"of c.jpg: none of its 3 pictures has that name"):
        detections_of(path, Path("c.jpg"))
    write_json(path, [Detected("a.jpg", found)])
    assert len(detections_of(path, Path("another.png"))) == 2


def row(**changes: object) -> dict[str, object]:
    return {"label": "cat", "class_id": 0, "score": 0.5, "box_px": [1, 2, 3, 4], **changes}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is not a list of detections"),
        ("{}", "is not a list of detections"),
        (json.dumps([row(box_px=[1, 2, 3])]), "is not a list of detections"),
        (json.dumps([row(box_px=[9, 2, 3, 4])]), "is not a list of detections"),
        (json.dumps([row(score=2)]), "is not a list of detections"),
        (json.dumps([row(class_id=-1)]), "is not a list of detections"),
        (json.dumps([row(class_id=10**9)]), "is not a list of detections"),
        (
            '[{"label": "a", "class_id": 0, "score": NaN, "box_px": [1, 2, 3, 4]}]',
            "is not a list of detections",
        ),
        (json.dumps([row(), row(label="dog")]), "calls class 0 both 'cat' and 'dog'"),
        (json.dumps([row(box_px=[0, 0, 1e39, 1e39])]), "is not a list of detections"),
    ],
)
def test_mistakes(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "d.json"
    path.write_text(content)
    with pytest.raises(SourceError, match=sentence):
        detections_of(path, Path("a.jpg"))


def test_a_picture_that_failed(tmp_path: Path) -> None:
    write_json(tmp_path / "d.json", [Failed("a.jpg", RequestRejected("not a picture"))])
    with pytest.raises(SourceError, match=r"has no detections of a.jpg: not a picture"):
        detections_of(tmp_path / "d.json", Path("a.jpg"))
