"""Two detectors' answers paired by hand-made boxes."""

from pathlib import Path

import numpy as np
import pytest

from detserve_core.detections import Detections
from detserve_perf.accuracy.differences import Differences, pair

LABELS = ("dog", "cat")
A, B, C = [0, 0, 100, 100], [200, 0, 300, 100], [0, 200, 100, 300]
A_MOVED = [20, 0, 120, 100]  # IoU 80 / 120 with A


def found(*rows: tuple[list[int], float, int], labels: tuple[str, ...] = LABELS) -> Detections:
    return Detections(
        np.array([box for box, _, _ in rows], np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in rows], np.float32),
        np.array([index for _, _, index in rows], np.int32),
        labels,
    )


def test_boxes_pair_by_name_and_overlap() -> None:
    ours = found((A_MOVED, 0.9, 0), (B, 0.75, 1), (C, 0.5, 0))
    theirs = found((B, 0.5, 0), (A, 0.8, 1), (C, 0.5, 0), labels=("Cat", "dog"))
    pairing = pair(ours, theirs)
    assert pairing.rows.tolist() == [[1, 0], [0, 1]]
    assert pairing.ious == pytest.approx(np.array([1, 2 / 3]))
    assert pairing.moved.tolist() == [False, True]
    assert pairing.missed.tolist() == [False, False, True]
    assert pairing.extra.tolist() == [False, False, True]


def test_a_box_pairs_once_and_with_the_nearest() -> None:
    pairing = pair(found((A, 0.9, 0)), found((A_MOVED, 0.9, 0), (A, 0.2, 0)))
    assert pairing.rows.tolist() == [[0, 1]]
    assert pairing.missed.tolist() == [True, False]
    assert pair(found((A, 0.9, 0)), found((B, 0.9, 0))).rows.shape == (0, 2)


@pytest.mark.parametrize(("ours", "theirs"), [((), ()), ((A,), ()), ((), (A, B))])
def test_nothing_to_pair(ours: tuple, theirs: tuple) -> None:
    pairing = pair(found(*((b, 0.5, 0) for b in ours)), found(*((b, 0.5, 0) for b in theirs)))
    assert (len(pairing.rows), len(pairing.ious)) == (0, 0)
    assert (pairing.extra.sum(), pairing.missed.sum()) == (len(ours), len(theirs))


def test_counts_by_picture_and_class_and_the_worst() -> None:
    differences = Differences(worst=2)
    differences.update(Path("x/same.jpg"), found((A, 0.5, 0)), found((A, 0.5, 0)))
    differences.update(Path("x/moved.jpg"), found((A_MOVED, 0.75, 0)), found((A, 0.5, 0)))
    differences.update(Path("x/other.jpg"), found((B, 0.5, 0), (C, 0.5, 0)), found((A, 0.5, 0), (C, 0.25, 0)))
    differences.update(Path("x/missed.jpg"), found(), found((A, 0.5, 1)))
    everything, cat, dog = differences.by_class()
    assert (everything.name, cat.name, dog.name) == ("all classes", "cat", "dog")
    assert (cat.matched, cat.moved, cat.missed, cat.extra, cat.mean_iou) == (0, 0, 1, 0, None)
    assert (dog.matched, dog.moved, dog.missed, dog.extra) == (3, 1, 1, 1)
    assert (everything.matched, everything.missed, everything.extra) == (3, 2, 1)
    assert everything.mean_iou == pytest.approx((1 + 2 / 3 + 1) / 3)
    assert everything.mean_score_change == pytest.approx((0 + 0.25 + 0.25) / 3)
    assert [counts.name for counts in differences.pictures] == [
        "same.jpg",
        "moved.jpg",
        "other.jpg",
        "missed.jpg",
    ]
    assert [counts.disagreement for counts in differences.pictures] == pytest.approx([0, 1 / 3, 2, 1])
    assert [case.path.name for case in differences.worst()] == ["other.jpg", "missed.jpg"]


def test_where_both_agree_there_is_no_worst_case() -> None:
    differences = Differences(worst=3)
    differences.update(Path("a.jpg"), found((A, 0.5, 0)), found((A, 0.5, 0)))
    assert differences.worst() == []
    none_kept = Differences(worst=0)
    none_kept.update(Path("a.jpg"), found((A, 0.5, 0)), found())
    assert none_kept.worst() == []
    assert Differences(worst=1).by_class()[0].mean_iou is None
