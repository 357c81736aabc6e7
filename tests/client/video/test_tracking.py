from __future__ import annotations

import warnings

import numpy as np

from detserve_client import Detections
from detserve_client.video.tracking import Tracker


def at(*lefts: float, score: float = 0.8, number: int = 0) -> Detections:
    boxes = np.array([[left, 20, left + 50, 90] for left in lefts], np.float32).reshape(-1, 4)
    count = len(lefts)
    scores, classes = np.full(count, score, np.float32), np.full(count, number, np.int32)
    return Detections(boxes, scores, classes, ("code", "label"))


def ids(tracker: Tracker, found: Detections) -> list[int | None]:
    tracked = tracker.tracked(found)
    assert tracked.track_ids is not None
    return list(tracked.track_ids)


def test_an_object_keeps_its_id_when_rows_change_places() -> None:
    tracker = Tracker(25)
    first = ids(tracker, at(100, 300))
    assert first == [1, 2]
    for step in range(1, 10):
        assert ids(tracker, at(300 - 3 * step, 100 + 3 * step)) == [2, 1]


def test_out_of_sight_for_half_a_second_is_the_same_object_for_three_seconds_a_new_one() -> None:
    for missing_frames, same in ((12, True), (75, False)):
        tracker = Tracker(25)
        (before,) = [ids(tracker, at(100)) for _ in range(10)][-1]
        for _ in range(missing_frames):
            assert ids(tracker, Detections.empty(["code"])) == []
        after = [ids(tracker, at(100)) for _ in range(3)][-1]
        assert (after == [before]) is same


def test_a_faint_newcomer_has_no_id() -> None:
    tracker = Tracker(25)
    ids(tracker, at(100))
    assert ids(tracker, at(100, 400, score=0.2))[1] is None


def test_two_videos_count_for_themselves_and_nothing_is_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [ids(Tracker(25), at(100)) for _ in range(2)] == [[1], [1]]
        assert ids(Tracker(0.2), at(100)) == [1]


def test_a_track_has_one_class() -> None:
    tracker = Tracker(25)
    code = [ids(tracker, at(100)) for _ in range(5)][-1]
    label = [ids(tracker, at(100, number=1)) for _ in range(5)][-1]
    assert (code, label) == ([1], [2])
    assert ids(tracker, at(100)) == [1]


def test_a_class_that_comes_later_is_not_believed_in_its_first_frame() -> None:
    tracker = Tracker(25)
    ids(tracker, at(100))
    assert [ids(tracker, at(300, number=1)) for _ in range(2)] == [[None], [2]]


def test_classes_in_one_frame_have_ids_of_their_own() -> None:
    tracker = Tracker(25)
    both = Detections(
        np.array([[100, 20, 150, 90], [105, 20, 155, 90]], np.float32),
        np.full(2, 0.8, np.float32),
        np.array([1, 0], np.int32),
        ("code", "label"),
    )
    assert [ids(tracker, both) for _ in range(4)] == [[2, 1]] * 4
