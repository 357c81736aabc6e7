"""Average precision: cases worked out by hand, and pycocotools asked directly about the whole dataset."""

import contextlib
import gc
import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detserve_core.datasets.average_precision import AccuracyTable, AveragePrecision, classes_by_name
from detserve_core.datasets.dataset import AnnotatedPicture, plain_boxes
from detserve_core.datasets.errors import DatasetError
from detserve_core.detections import Detections

LABELS = ("qr code", "barcode", "person")


def truth(*boxes: tuple[int, list[float]], difficult: tuple[bool, ...] = ()) -> AnnotatedPicture:
    return plain_boxes(Path("a.jpg"), [box for _, box in boxes], [index for index, _ in boxes], difficult)


def found(*rows: tuple[int, list[float], float]) -> Detections:
    boxes = np.array([box for _, box, _ in rows], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    scores = np.array([score for _, _, score in rows], np.float32)
    return Detections(boxes, scores, np.array([index for index, _, _ in rows], np.int32), LABELS)


def table_of(*pictures: tuple[AnnotatedPicture, Detections]) -> AccuracyTable:
    precision = AveragePrecision(LABELS, LABELS)
    for annotated, detections in pictures:
        precision.update(annotated, detections)
    return precision.result()[0]


def test_half_the_boxes_found_before_a_false_one() -> None:
    """Two boxes of a class, one found exactly and first: precision 1 up to recall 0.5, 0 after it.

    COCO samples recall at 0, 0.01, ..., 1: 51 of the 101 samples are at recall 0.5 or below.
    """
    box = [10.0, 10.0, 100.0, 50.0]
    table = table_of(
        (truth((0, box)), found((0, box, 0.9))), (truth((0, box)), found((0, [300, 300, 50, 50], 0.8)))
    )
    small, medium, large = table.sizes
    assert table.ap == table.ap50 == table.ap75 == pytest.approx(51 / 101)
    assert (small.ap, small.boxes, large.ap) == (None, 0, None)
    assert (medium.ap, medium.boxes) == (pytest.approx(51 / 101), 2)
    assert (table.pictures, table.boxes, table.detections) == (2, 2, 2)


def test_a_box_that_is_a_little_off_counts_at_low_iou_only() -> None:
    """100x100 boxes shifted by 20 have an IoU of 80 / 120 = 0.67: found at .50, .55, .60 and .65 of ten."""
    table = table_of((truth((1, [0, 0, 100, 100])), found((1, [20, 0, 100, 100], 0.5))))
    assert (table.ap, table.ap50, table.ap75) == pytest.approx((0.4, 1, 0))


def test_a_class_is_scored_by_itself() -> None:
    box = [10.0, 10.0, 100.0, 100.0]
    table = table_of((truth((0, box), (1, box)), found((0, box, 0.9))))
    assert [(one.name, one.boxes) for one in table.classes] == [("qr code", 1), ("barcode", 1), ("person", 0)]
    assert [one.ap for one in table.classes] == [pytest.approx(1), 0, None]
    assert [one.ap75 for one in table.classes] == [pytest.approx(1), 0, None]
    assert table.ap == pytest.approx(0.5)


def test_no_detection_at_all_is_zero() -> None:
    assert table_of((truth((0, [0, 0, 50, 50])), found())).ap == 0


def test_pictures_without_boxes_and_detections_still_count() -> None:
    table = table_of((truth(), found()), (truth((0, [0, 0, 50, 50])), found((0, [0, 0, 50, 50], 0.5))))
    assert (table.pictures, table.ap) == (2, pytest.approx(1))


def test_a_difficult_object_is_neither_found_nor_missed() -> None:
    easy, hard = [0.0, 0.0, 50.0, 50.0], [200.0, 200.0, 80.0, 80.0]
    annotated = truth((0, hard), (0, easy), difficult=(True, False))
    assert table_of((annotated, found((0, easy, 0.5)))).ap == pytest.approx(1)
    table = table_of((annotated, found((0, hard, 0.9), (0, hard, 0.8), (0, easy, 0.5))))
    assert (table.ap, table.boxes) == (pytest.approx(1), 1)


def test_a_part_of_a_difficult_object_is_a_mistake_as_it_is_with_any_other() -> None:
    """A crowd forgives what lies inside it; a difficult object asks for half its area, as VOC does."""
    easy, hard = [0.0, 0.0, 50.0, 50.0], [200.0, 200.0, 80.0, 80.0]
    part = (0, [210.0, 210.0, 20.0, 20.0], 0.9)
    annotated = truth((0, hard), (0, easy), difficult=(True, False))
    assert table_of((annotated, found(part, (0, easy, 0.5)))).ap == pytest.approx(0.5)
    crowd = AnnotatedPicture(**{**vars(annotated), "crowd": annotated.difficult})
    assert table_of((crowd, found(part, (0, easy, 0.5)))).ap == pytest.approx(1)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_picture_by_picture_scores_as_pycocotools_does_at_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pictures = [_random_picture(rng) for _ in range(6)]
    table = table_of(*pictures)
    sizes = [size.ap for size in table.sizes]
    ours = [-1 if value is None else value for value in (table.ap, table.ap50, table.ap75, *sizes)]
    assert ours == pytest.approx(_pycocotools(pictures), abs=1e-12)


def _random_picture(rng: np.random.Generator) -> tuple[AnnotatedPicture, Detections]:
    count = int(rng.integers(0, 9))
    boxes = np.concatenate([rng.uniform(0, 300, (count, 2)), rng.uniform(8, 200, (count, 2))], axis=1)
    classes = rng.integers(0, 2 if rng.random() < 0.5 else 3, count)
    annotated = AnnotatedPicture(
        path=Path("a.jpg"),
        boxes_xywh=boxes,
        classes=classes,
        areas_px=boxes[:, 2:].prod(axis=1) * rng.uniform(0.4, 1, count),
        crowd=rng.random(count) < 0.15,
        difficult=np.zeros(count, np.bool_),
    )
    moved = (np.repeat(boxes, 2, axis=0) + rng.normal(0, 6, (2 * count, 4))).clip(1)
    guesses = np.where(rng.random(2 * count) < 0.8, np.repeat(classes, 2), rng.integers(0, 3, 2 * count))
    scores = rng.integers(1, 20, 2 * count) / 20  # ties too
    return annotated, found(*zip(guesses.tolist(), moved.tolist(), scores.tolist(), strict=True))


def _pycocotools(pictures: list[tuple[AnnotatedPicture, Detections]]) -> list[float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations, results = [], []
    for image_id, (annotated, detections) in enumerate(pictures):
        for row, box in enumerate(annotated.boxes_xywh.tolist()):
            entry = {"image_id": image_id, "category_id": int(annotated.classes[row]), "bbox": box}
            flags = {"area": float(annotated.areas_px[row]), "iscrowd": int(annotated.crowd[row])}
            annotations.append({"id": len(annotations) + 1, **entry, **flags})
        for row, (x1, y1, x2, y2) in enumerate(detections.boxes.astype(float).tolist()):
            bbox, score = [x1, y1, x2 - x1, y2 - y1], float(detections.scores[row])
            entry = {"image_id": image_id, "category_id": int(detections.classes[row]), "bbox": bbox}
            results.append({**entry, "score": score})
    if not results:
        return [-1.0] * 6
    with contextlib.redirect_stdout(io.StringIO()):
        whole = COCO()
        whole.dataset = {
            "images": [{"id": n} for n in range(len(pictures))],
            "categories": [{"id": n, "name": name} for n, name in enumerate(LABELS)],
            "annotations": annotations,
        }
        whole.createIndex()
        evaluation = COCOeval(whole, whole.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:6].tolist()


def test_of_a_picture_its_boxes_stay() -> None:
    rng = np.random.default_rng(5)
    boxes = np.concatenate([rng.uniform(0, 300, (40, 2)), rng.uniform(8, 200, (40, 2))], axis=1).tolist()
    precision = AveragePrecision(LABELS, LABELS)
    held_bytes = []
    tracemalloc.start()
    try:
        for pictures in (5, 20):
            for _ in range(pictures):
                annotated = truth(*((0, box) for box in boxes[:5]))
                precision.update(annotated, found(*((0, box, 0.5) for box in boxes)))
            gc.collect()
            held_bytes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert held_bytes[1] - held_bytes[0] < 20 * (len(boxes) * 24 + 1_000)  # and two arrays' headers
    assert precision.result()[0].detections == 25 * len(boxes)


def test_nothing_is_printed(capsys) -> None:
    table_of((truth((0, [0, 0, 50, 50])), found((0, [0, 0, 50, 50], 0.5))))
    assert capsys.readouterr() == ("", "")


def test_labels_find_their_class_by_name() -> None:
    assert classes_by_name(["Person", "dog", " qr code "], LABELS) == {0: 2, 2: 0}


def test_labels_that_match_nothing_are_refused() -> None:
    with pytest.raises(DatasetError, match=r"none of the card's labels \(face, \.\.\.\).*\(qr code, bar"):
        classes_by_name(["face"], LABELS)
