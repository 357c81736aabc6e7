"""NMS and the way back to the picture, against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from detserve_builder.steps.detserve_postprocess import nms, postprocess, to_picture
from detserve_builder.steps.detserve_preprocess import fit


def greedy(boxes, scores, classes, iou_threshold):
    """Greedy NMS as the textbooks have it, one pair at a time."""
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable"):
        if all(classes[k] != classes[index] or iou(boxes[k], boxes[index]) <= iou_threshold for k in kept):
            kept.append(int(index))
    return kept


def iou(a, b) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(0, width) * max(0, height)
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)


@given(seed=st.integers(0, 10_000), count=st.integers(0, 60), num_classes=st.integers(1, 4))
def test_nms_is_greedy_and_class_wise(seed: int, count: int, num_classes: int) -> None:
    rng = np.random.default_rng(seed)
    center, size = rng.uniform(0, 100, (count, 2)), rng.uniform(5, 60, (count, 2))
    boxes = np.concatenate([center - size / 2, center + size / 2], 1).astype(np.float32)
    scores = np.sort(rng.permutation(count).astype(np.float32) / max(count, 1) + 0.001)[::-1].copy()
    classes = rng.integers(0, num_classes, count).astype(np.int32)
    assert nms(boxes, scores, classes, 0.5).tolist() == greedy(boxes, scores, classes, 0.5)


def test_boxes_off_the_picture_meet_no_other_class() -> None:
    boxes = np.array([[316, 316, 416, 416], [-99, -99, 1, 1]], np.float32)
    kept = nms(boxes, np.array([0.9, 0.8], np.float32), np.array([0, 1], np.int32), 0.2)
    assert kept.tolist() == [0, 1]


@given(
    size=st.tuples(st.integers(20, 2000), st.integers(20, 2000)),
    rule=st.sampled_from(["letterbox_center", "letterbox_topleft", "stretch"]),
    corners=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
)
def test_boxes_come_back_to_where_they_were(size, rule, corners) -> None:
    _, geometry = fit(
        np.zeros((size[1], size[0], 3), np.uint8), input_wh=(416, 320), resize=rule, pad_value=0
    )
    x1, x2 = sorted((corners[0] * size[0], corners[1] * size[0]))
    y1, y2 = sorted((corners[2] * size[1], corners[3] * size[1]))
    box = np.array([[x1, y1, x2, y2]], np.float32)
    network = (box.reshape(-1, 2, 2) * geometry[:2] + geometry[2:4]).reshape(-1, 4)
    np.testing.assert_allclose(to_picture(network, geometry), box, atol=0.02)


def test_padding_limits_and_clipping() -> None:
    boxes = np.array([[-50, -50, 20, 20], [10, 10, 500, 500], [60, 60, 70, 70], [1, 1, 2, 2]], np.float32)
    scores = np.array([0.9, 0.8, 0.7, 0.1], np.float32)
    classes = np.array([0, 1, 0, -1], np.int32)
    geometry = np.array([1, 1, 0, 0, 100, 80], np.float32)

    def run(**changed):
        settings = {"score_threshold": 0.0, "iou_threshold": 0.5, "max_detections": 10, "rows": 6, **changed}
        return postprocess(boxes, scores, classes, geometry, **settings)

    num, out_boxes, out_scores, out_classes = run()
    assert num.tolist() == [3]  # class -1 is padding
    assert out_boxes[0].tolist() == [0, 0, 20, 20]
    assert out_boxes[1].tolist() == [10, 10, 100, 80]
    assert out_scores[3:].tolist() == [0, 0, 0]
    assert out_classes.tolist() == [0, 1, 0, -1, -1, -1]
    assert run(max_detections=1)[0].tolist() == [1]
    assert run(score_threshold=0.8)[0].tolist() == [2]
    assert run(score_threshold=1.0)[0].tolist() == [0]


BAD = ("inverted", "upside down", "flat", "nan", "infinite")


def spoilt(box: np.ndarray, how: str) -> np.ndarray:
    x1, y1, x2, y2 = box
    return np.float32(
        {
            "inverted": (x2, y1, x1, y2),
            "upside down": (x1, y2, x2, y1),
            "flat": (x1, y1, x1, y2),
            "nan": (x1, np.nan, x2, y2),
            "infinite": (x1, y1, np.inf, y2),
        }[how]
    )


@given(
    seed=st.integers(0, 10_000),
    kinds=st.lists(st.sampled_from(("good", *BAD)), max_size=40),
    iou_threshold=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_rows_that_are_no_box_are_dropped_and_cost_no_other(seed, kinds, iou_threshold) -> None:
    assume(not kinds or not {"nan", "infinite"}.issuperset(kinds))  # all of them are no network's answer
    rng, count = np.random.default_rng(seed), len(kinds)
    center, size = rng.uniform(0, 100, (count, 2)), rng.uniform(5, 60, (count, 2))
    boxes = np.concatenate([center - size / 2, center + size / 2], 1).astype(np.float32)
    scores = np.sort(rng.uniform(0.1, 1, count).astype(np.float32))[::-1].copy()
    classes = rng.integers(0, 3, count).astype(np.int32)
    good = np.array([kind == "good" for kind in kinds], bool)
    all_rows = boxes.copy()
    for row, kind in enumerate(kinds):
        if kind != "good":
            all_rows[row] = spoilt(boxes[row], kind)
    geometry = np.array([1, 1, 0, 0, 100, 80], np.float32)
    settings = {"score_threshold": 0.0, "iou_threshold": iou_threshold, "max_detections": 50, "rows": 50}
    found = postprocess(all_rows, scores, classes, geometry, **settings)
    expected = postprocess(boxes[good], scores[good], classes[good], geometry, **settings)
    assert int(found[0][0]) == len(greedy(boxes[good], scores[good], classes[good], iou_threshold))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_scores_that_are_no_numbers_are_dropped() -> None:
    boxes = np.tile(np.float32([1, 1, 9, 9]), (3, 1))
    scores = np.array([np.inf, 0.5, np.nan], np.float32)
    geometry = np.array([1, 1, 0, 0, 100, 80], np.float32)
    settings = {"score_threshold": 0.0, "iou_threshold": 1.0, "max_detections": 5, "rows": 5}
    num, _, found, _ = postprocess(boxes, scores, np.zeros(3, np.int32), geometry, **settings)
    assert num.tolist() == [1]
    assert found[0] == 0.5


@pytest.mark.parametrize("spoils", ["boxes", "scores"])
def test_a_network_that_overflows_has_not_seen_nothing(spoils: str) -> None:
    network = {
        "boxes": np.tile(np.array([1, 1, 9, 9], np.float32), (3, 1)),
        "scores": np.array([0.9, 0.8, 0.7], np.float32),
    }
    limits = {"score_threshold": 0.3, "iou_threshold": 0.5, "max_detections": 5, "rows": 5}
    rest = (np.zeros(3, np.int32), np.array([1, 1, 0, 0, 20, 20], np.float32))
    network[spoils][:2] = np.nan
    postprocess(network["boxes"], network["scores"], *rest, **limits)
    network[spoils][:] = np.nan
    with pytest.raises(FloatingPointError, match="not one box of the network"):
        postprocess(network["boxes"], network["scores"], *rest, **limits)
