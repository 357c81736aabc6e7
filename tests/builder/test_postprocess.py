"""NMS and the way back to the picture, against plain numpy."""

from __future__ import annotations

import numpy as np
from hypothesis import given
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
