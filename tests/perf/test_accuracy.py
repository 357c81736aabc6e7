"""From the client's detections to COCO's results, and to what is said about labels and files."""

import numpy as np
import pytest

from detserve_client.detections import Detections
from detserve_perf.accuracy import coco_results, label_notes, pictures_of
from detserve_perf.errors import MeasurementError

ANNOTATIONS = {
    "images": [{"id": 5, "file_name": "a.jpg"}, {"id": 6, "file_name": "b.jpg"}],
    "categories": [{"id": 7, "name": "qr code"}, {"id": 3, "name": "barcode"}],
}


def test_corners_become_sizes_and_unknown_classes_go() -> None:
    detections = Detections(
        boxes=np.array([[10, 20, 40, 60], [0, 0, 5, 5]], np.float32),
        scores=np.array([0.75, 0.5], np.float32),
        classes=np.array([1, 0], np.int32),
        labels=("face", "qr code"),
    )
    assert coco_results(5, detections, {1: 7}) == [
        {"image_id": 5, "category_id": 7, "bbox": [10.0, 20.0, 30.0, 40.0], "score": 0.75}
    ]
    assert coco_results(5, Detections.empty(("face",)), {0: 7}) == []


def test_what_the_names_do_not_share_is_said() -> None:
    assert label_notes(["qr code", "barcode"], ANNOTATIONS, {0: 7, 1: 3}) == []
    notes = label_notes(["face", "qr code"], ANNOTATIONS, {1: 7})
    assert notes == [
        "labels of the card without a category, ignored: face",
        "categories that the card does not know, not scored: barcode",
    ]
    many = label_notes([str(n) for n in range(9)], ANNOTATIONS, {0: 7, 1: 3})
    assert many[0].endswith("2, 3, 4, 5, 6 and 2 more")


def test_an_absent_picture_is_an_error(tmp_path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"picture")
    with pytest.raises(MeasurementError, match=r"1 of 2 annotated pictures are not in .*, b\.jpg for one"):
        pictures_of(ANNOTATIONS, tmp_path)
    (tmp_path / "b.jpg").write_bytes(b"picture")
    assert pictures_of(ANNOTATIONS, tmp_path) == {5: tmp_path / "a.jpg", 6: tmp_path / "b.jpg"}
