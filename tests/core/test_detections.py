from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from detserve_client import Detections

LABELS = ("cat", "dog", "bicycle")


@st.composite
def detections(draw: st.DrawFn) -> Detections:
    rows = draw(st.integers(0, 6))
    corners = draw(hnp.arrays(np.float32, (rows, 2, 2), elements=st.floats(0, 4096, width=32)))
    boxes = np.sort(corners, axis=1).reshape(rows, 4)
    scores = draw(hnp.arrays(np.float32, rows, elements=st.floats(0, 1, width=32)))
    classes = draw(hnp.arrays(np.int32, rows, elements=st.integers(0, len(LABELS) - 1)))
    return Detections(boxes, scores, classes, LABELS)


def arrays(**changes: Any) -> dict[str, Any]:
    good = {
        "boxes": np.array([[0, 0, 2, 2]], np.float32),
        "scores": np.array([0.5], np.float32),
        "classes": np.array([0], np.int32),
        "names": LABELS,
    }
    return {**good, **changes}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"boxes": [[0, 0, 2, 2]]}, "boxes is a list; expected a numpy array"),
        ({"boxes": np.zeros((1, 4))}, r"boxes is float64 \(1, 4\); expected float32 \(n, 4\)"),
        ({"boxes": np.zeros((1, 5), np.float32)}, r"boxes has shape \(1, 5\); expected \(n, 4\)"),
        ({"scores": np.zeros((1, 1), np.float32)}, r"scores is float32 \(1, 1\); expected float32 \(n,\)"),
        ({"scores": np.zeros(2, np.float32)}, "scores has 2 rows and boxes has 1"),
        ({"classes": np.zeros(1, np.int64)}, r"classes is int64 \(1,\); expected int32"),
        ({"boxes": np.array([[0, 0, np.nan, 2]], np.float32)}, "not finite"),
        ({"boxes": np.array([[3, 0, 2, 2]], np.float32)}, "x2 < x1"),
        ({"scores": np.array([1.5], np.float32)}, "outside 0 to 1"),
        ({"scores": np.array([np.nan], np.float32)}, "outside 0 to 1"),
        ({"classes": np.array([3], np.int32)}, "classes holds 3 to 3; expected 0 to 2"),
        ({"classes": np.array([-1], np.int32)}, "classes holds -1 to -1"),
    ],
)
def test_arrays_are_checked_once(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Detections(**arrays(**changes))


def test_nothing_can_be_changed_afterwards() -> None:
    given_arrays = arrays()
    found = Detections(**given_arrays)
    given_arrays["scores"][0] = 0.1
    assert found.scores[0] == 0.5
    with pytest.raises(ValueError, match="read-only"):
        found.boxes[0, 0] = 7
    with pytest.raises(AttributeError):
        found.names = ()  # type: ignore[misc]


def test_empty() -> None:
    empty = Detections.empty(list(LABELS))
    assert len(empty) == 0
    assert list(empty) == []
    assert empty.boxes.shape == (0, 4)
    assert empty.to_dicts() == []
    assert empty.to_coco(1) == []
    assert len(empty.to_supervision()) == 0


def test_rows(found: Detections) -> None:
    first = next(iter(found))
    assert first.box_px == (10, 20, 110, 70)
    assert first.score == pytest.approx(0.86)
    assert (first.class_id, first.label) == (1, "dog")
    assert found.labels.tolist() == ["dog", "cat"]
    assert [row.label for row in found[found.labels == "cat"]] == ["cat"]
    assert Detections.empty(LABELS).labels.shape == (0,)
    assert repr(found) == "<Detections 2: 1 dog, 1 cat>"
    assert repr(Detections.empty(LABELS)) == "<Detections 0>"


@given(detections(), st.floats(0, 1))
def test_filters_keep_whole_rows(found: Detections, score: float) -> None:
    kept = found.above(score)
    assert list(kept) == [row for row in found if row.score >= np.float32(score)]
    by_class = [found.of(label) for label in LABELS]
    assert sum(map(len, by_class)) == len(found)
    assert found.of(*LABELS) == found
    assert found[np.zeros(len(found), bool)] == Detections.empty(LABELS)


def test_filter_mistakes(found: Detections) -> None:
    with pytest.raises(ValueError, match="no class 'horse'; it has cat, dog, bicycle"):
        found.of("horse")
    with pytest.raises(
        ValueError, match=r"no class 'bicicle' \(did you mean 'bicycle'\?\); it has cat, dog,"
    ):
        found.of("dog", "bicicle")
    with pytest.raises(ValueError, match=r"the rows are float32 \(2,\); expected .* a mask, bool \(2,\)"):
        found[found.scores]  # type: ignore[call-overload]
    with pytest.raises(ValueError, match=r"the rows are bool \(3,\); expected .* a mask, bool \(2,\)"):
        found[[True, False, True]]
    with pytest.raises(ValueError, match=r"the rows are bool \(\)"):
        found[np.bool_(True)]  # type: ignore[call-overload]
    for wrong in (["dog", "cat"], 16):
        with pytest.raises(TypeError, match=r"expected names of classes, each by itself: of\('cat', 'dog'\)"):
            found.of(wrong)  # type: ignore[arg-type]
    for row in (2, -3):
        with pytest.raises(IndexError, match=f"there is no row {row}; there are 2 detections"):
            found[row]
    with pytest.raises(IndexError, match="there is no row 7"):
        found[[0, 7]]


@given(detections(), st.data())
def test_rows_by_number_slice_list_and_mask(found: Detections, data: st.DataObject) -> None:
    rows = list(found)
    numbers = data.draw(st.lists(st.integers(-len(found), len(found) - 1)) if rows else st.just([]))
    cut = data.draw(st.slices(len(found)))
    mask = data.draw(st.lists(st.booleans(), min_size=len(found), max_size=len(found)))
    assert [found[number] for number in numbers] == [rows[number] for number in numbers]
    assert list(found[numbers]) == list(found[np.array(numbers, np.int64)]) == [rows[n] for n in numbers]
    assert list(found[cut]) == rows[cut]
    kept = [row for row, keep in zip(rows, mask, strict=True) if keep]
    assert list(found[mask]) == list(found[np.array(mask, bool)]) == kept


def test_the_names_of_supervision(found: Detections) -> None:
    assert found.xyxy is found.boxes
    assert found.confidence is found.scores
    assert found.class_id is found.classes
    assert found.area.tolist() == [5000, 45.375]
    assert found[found.area > 1024].labels == ("dog",)


def test_track_ids_stay_with_their_rows(found: Detections) -> None:
    tracked = replace(found, track_ids=(7, None))
    assert tracked != found
    assert [row.track_id for row in tracked] == [7, None]
    assert tracked[[1, 0]].track_ids == (None, 7)
    assert tracked.above(0.5).track_ids == (7,)
    assert [row["track_id"] for row in tracked.to_dicts()] == [7, None]
    assert tracked.to_supervision().tracker_id.tolist() == [7, -1]
    assert found.to_supervision().tracker_id is None
    with pytest.raises(ValueError, match="track_ids has 1 rows and boxes has 2"):
        replace(found, track_ids=(7,))


@given(detections())
def test_equality(found: Detections) -> None:
    same = Detections(found.boxes.copy(), found.scores.copy(), found.classes.copy(), LABELS)
    assert found == same
    assert found != Detections(found.boxes, found.scores, found.classes, (*LABELS, "horse"))
    assert found != "detections"
    if len(found):
        assert found != found[np.arange(len(found)) > 0]


@given(detections())
def test_json_keeps_every_float32(found: Detections) -> None:
    rows = json.loads(json.dumps(found.to_dicts()))
    assert [row["label"] for row in rows] == [row.label for row in found]
    boxes = np.array([row["box_px"] for row in rows], np.float32).reshape(-1, 4)
    assert np.array_equal(boxes, found.boxes)
    assert np.array_equal(np.array([row["score"] for row in rows], np.float32), found.scores)


def test_json_numbers_are_short(found: Detections) -> None:
    assert found.to_dicts()[0] == {
        "label": "dog",
        "class_id": 1,
        "score": 0.86,
        "box_px": [10.0, 20.0, 110.0, 70.0],
    }


def test_coco_results(found: Detections) -> None:
    assert found.to_coco(7) == [
        {"image_id": 7, "category_id": 1, "bbox": [10, 20, 100, 50], "score": 0.86},
        {"image_id": 7, "category_id": 0, "bbox": [0, 0, 5.5, 8.25], "score": 0.31},
    ]
    assert found.to_coco(7, {"dog": 18}) == [
        {"image_id": 7, "category_id": 18, "bbox": [10, 20, 100, 50], "score": 0.86}
    ]


def test_supervision_detections(found: Detections) -> None:
    rows = found.to_supervision()
    assert np.array_equal(rows.xyxy, found.boxes)
    assert list(rows.data["class_name"]) == ["dog", "cat"]
    assert rows.class_id is not None
    assert rows.class_id.tolist() == [1, 0]


def test_a_missing_supervision_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['supervision'] = None\n"
        "from detserve_client import Detections, MissingExtra\n"
        "try: Detections.empty(['a']).to_supervision()\n"
        "except MissingExtra as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'detserve[draw]'" in done.stdout
