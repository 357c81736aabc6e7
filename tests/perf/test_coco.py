"""Average precision: a case worked out by hand, and pycocotools asked directly."""

import contextlib
import copy
import io
import json

import numpy as np
import pytest

from detserve_perf.coco import categories_by_class, load_annotations, score
from detserve_perf.errors import MeasurementError

CATEGORIES = [{"id": 7, "name": "qr code"}, {"id": 3, "name": "barcode"}, {"id": 9, "name": "person"}]


def annotations_of(*boxes: tuple[int, int, list[float]], pictures: int = 2) -> dict:
    return {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 640, "height": 480} for n in range(pictures)],
        "categories": CATEGORIES,
        "annotations": [
            {"id": n, "image_id": image, "category_id": category, "bbox": box}
            for n, (image, category, box) in enumerate(boxes)
        ],
    }


def result(image: int, category: int, box: list[float], confidence: float) -> dict:
    return {"image_id": image, "category_id": category, "bbox": box, "score": confidence}


def test_half_the_boxes_found_before_a_false_one() -> None:
    """Two boxes of class 7, one found exactly and first: precision 1 up to recall 0.5, 0 after it.

    COCO samples recall at 0, 0.01, ..., 1: 51 of the 101 samples are at recall 0.5 or below.
    """
    box = [10.0, 10.0, 100.0, 50.0]
    annotations = annotations_of((0, 7, box), (1, 7, box))
    table = score(annotations, [result(0, 7, box, 0.9), result(1, 7, [300, 300, 50, 50], 0.8)], [7])
    assert table.ap == pytest.approx(51 / 101)
    assert table.ap50 == pytest.approx(51 / 101)
    assert table.ap_small is None
    assert table.ap_medium == pytest.approx(51 / 101)
    assert table.ap_large is None
    assert (table.pictures, table.boxes, table.detections) == (2, 2, 2)


def test_a_box_that_is_a_little_off_counts_at_low_iou_only() -> None:
    """100x100 boxes shifted by 20 have an IoU of 80 / 120 = 0.67: found at .50, .55, .60 and .65 of ten."""
    table = score(annotations_of((0, 3, [0, 0, 100, 100])), [result(0, 3, [20, 0, 100, 100], 0.5)], [3])
    assert table.ap == pytest.approx(0.4)
    assert table.ap50 == pytest.approx(1)
    assert table.ap75 == pytest.approx(0)


def test_a_class_is_scored_by_itself() -> None:
    box = [10.0, 10.0, 100.0, 100.0]
    annotations = annotations_of((0, 7, box), (0, 3, box))
    table = score(annotations, [result(0, 7, box, 0.9)], [7, 3, 9])
    assert [(one.name, one.boxes) for one in table.classes] == [("barcode", 1), ("qr code", 1), ("person", 0)]
    assert [one.ap for one in table.classes] == [0, pytest.approx(1), None]
    assert [one.ap50 for one in table.classes] == [0, pytest.approx(1), None]
    assert table.ap == pytest.approx(0.5)


def test_no_detection_at_all_is_zero() -> None:
    assert score(annotations_of((0, 7, [0, 0, 50, 50])), [], [7]).ap == 0


def test_a_detection_of_a_strange_picture_is_refused() -> None:
    with pytest.raises(MeasurementError, match="picture 99, which is not annotated"):
        score(annotations_of((0, 7, [0, 0, 50, 50])), [result(99, 7, [0, 0, 5, 5], 1)], [7])


@pytest.mark.parametrize("seed", range(5))
def test_random_detections_score_as_with_pycocotools_itself(seed: int, capsys) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations, results = _random_case(np.random.default_rng(seed))
    untouched = copy.deepcopy((annotations, results))
    table = score(annotations, results, [3, 7, 9])
    assert capsys.readouterr() == ("", "")
    assert (annotations, results) == untouched
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = annotations
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    ours = [table.ap, table.ap50, table.ap75, table.ap_small, table.ap_medium, table.ap_large]
    assert [-1 if value is None else value for value in ours] == pytest.approx(evaluation.stats[:6].tolist())


def _random_case(rng: np.random.Generator) -> tuple[dict, list[dict]]:
    annotations = annotations_of(pictures=6)
    results = []
    for number in range(1, 41):
        size = rng.uniform(8, 200, 2)
        box = [*rng.uniform(0, 300, 2).tolist(), *size.tolist()]
        image, category = int(rng.integers(6)), int(rng.choice([3, 7, 9]))
        annotations["annotations"].append(
            {
                "id": number,
                "image_id": image,
                "category_id": category,
                "bbox": box,
                "area": float(size.prod()),
                "iscrowd": int(number % 13 == 0),
            }
        )
        moved = (np.array(box) + rng.normal(0, 6, 4)).clip(1).tolist()
        guess = category if rng.random() < 0.8 else int(rng.choice([3, 7, 9]))
        results.append(result(image, guess, moved, float(rng.random())))
    return annotations, results


def test_labels_find_their_category_by_name() -> None:
    annotations = annotations_of()
    assert categories_by_class(["Person", "dog", " qr code "], annotations) == {0: 9, 2: 7}


def test_labels_that_match_nothing_are_refused() -> None:
    with pytest.raises(
        MeasurementError, match=r"none of the card's labels \(face, \.\.\.\).*\(qr code, barcode"
    ):
        categories_by_class(["face"], annotations_of())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is no JSON"),
        ("[]", "has no list 'images'"),
        ('{"images": [{"id": 1}]}', "images\\[0\\] has no 'file_name'"),
        ('{"images": [{"id": 1, "file_name": "a"}], "annotations": []}', "has no list 'annotations'"),
        (json.dumps(annotations_of((0, 7, [1, 2, 3]))), r"the bbox \[1, 2, 3\]; expected x, y"),
    ],
)
def test_a_file_that_is_no_coco_is_refused(tmp_path, content: str, words: str) -> None:
    path = tmp_path / "instances.json"
    path.write_text(content)
    with pytest.raises(MeasurementError, match=words):
        load_annotations(path)


def test_annotations_are_read(tmp_path) -> None:
    path = tmp_path / "instances.json"
    annotations = annotations_of((0, 7, [0, 0, 5, 5]))
    path.write_text(json.dumps(annotations))
    assert load_annotations(path) == annotations
    with pytest.raises(MeasurementError, match="cannot be read"):
        load_annotations(tmp_path / "absent.json")
