"""A dataset through a client of a server in memory: figures, differences, report, memory."""

from __future__ import annotations

import gc
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from detserve_client import Client
from detserve_client.engine.wire import DetectionRequest
from detserve_client.transports import FakeTransport
from detserve_core.card import Card
from detserve_core.datasets import Dataset, open_dataset
from detserve_core.detections import Detections
from detserve_core.errors import RequestRejected
from detserve_perf.accuracy.served_accuracy import Accuracy, label_notes, score_dataset
from detserve_perf.accuracy.served_accuracy_report import accuracy_report
from detserve_perf.errors import MeasurementError
from detserve_perf.report.machine import this_machine

LABELS = ("face", "qr code")
SIDE_PX = 60
Answer = Callable[[DetectionRequest], Detections]


def client_of(name: str, answer: Answer, labels: tuple[str, ...] = LABELS) -> Client:
    card = Card.model_validate(
        {
            "name": name,
            "family": "test",
            "input_wh": [64, 64],
            "preprocess": {"resize": "stretch"},
            "labels": list(labels),
        }
    )
    return Client("grpc://fake", name, transport=FakeTransport(card, answer))


def boxes(*rows: tuple[float, list[float]]) -> Detections:
    return Detections(
        np.array([box for _, box in rows], np.float32).reshape(-1, 4),
        np.array([score for score, _ in rows], np.float32),
        np.ones(len(rows), np.int32),
        LABELS,
    )


def right(request: DetectionRequest) -> Detections:
    return boxes((0.9, [15, 15, 45, 45]))


def moved_and_more(request: DetectionRequest) -> Detections:
    return boxes((0.8, [20, 15, 50, 45]), (0.6, [0, 0, 10, 10]), (0.1, [30, 30, 50, 50]))


def yolo(folder: Path, pictures: int, padding_bytes: int = 0) -> Dataset:
    """Pictures with one code in their middle; the padding lies behind the encoded picture."""
    rng = np.random.default_rng(7)
    _, encoded = cv2.imencode(".png", rng.integers(0, 255, (SIDE_PX, SIDE_PX, 3), np.uint8))
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for number in range(pictures):
        (folder / f"images/{number:04}.png").write_bytes(encoded.tobytes() + bytes(padding_bytes))
        (folder / f"labels/{number:04}.txt").write_text("1 .5 .5 .5 .5\n")
    return open_dataset(folder, None, LABELS)


def measured(dataset: Dataset, *clients: Client) -> Accuracy:
    models, differences = score_dataset(
        clients, dataset, iou_threshold=None, concurrency=3, worst=2, on_picture=lambda: None
    )
    return Accuracy(models, differences, dataset, 3, this_machine(triton="2.51.0"))


def test_one_model(tmp_path: Path) -> None:
    result = measured(yolo(tmp_path, 5), client_of("codes", right))
    (model,) = result.models
    assert (model.table.ap, model.table.pictures, model.table.boxes) == (pytest.approx(1), 5, 5)
    assert result.differences is None


def test_two_models_are_scored_and_compared_by_what_their_cards_show(tmp_path: Path) -> None:
    result = measured(yolo(tmp_path, 5), client_of("codes", moved_and_more), client_of("codes_fp32", right))
    first, second = result.models
    assert first.table.detections == 15
    assert (first.table.ap50, second.table.ap) == (pytest.approx(1), pytest.approx(1))
    assert first.table.ap < 0.6
    assert result.differences is not None
    everything, *_ = result.differences.by_class()
    assert (everything.matched, everything.moved, everything.missed, everything.extra) == (5, 5, 0, 5)
    assert len(result.differences.pictures) == 5
    assert [case.path.name for case in result.differences.worst()] == ["0000.png", "0001.png"]


def test_a_report_has_tables_curves_and_the_worst_pictures(tmp_path: Path) -> None:
    dataset = yolo(tmp_path / "set", 3)
    report = accuracy_report(
        measured(dataset, client_of("codes", moved_and_more), client_of("codes_fp32", right))
    )
    written = {path.relative_to(tmp_path).as_posix() for path in report.write(tmp_path / "out")}
    assert written >= {"out/accuracy.md", "out/accuracy_5.csv", "out/accuracy_curves_2.png"}
    assert cv2.imread(str(tmp_path / "out/accuracy_curves.png")).shape[1] > 1000
    drawn = cv2.imread(str(tmp_path / "out/worst/01_0000.jpg"))
    assert drawn.shape[1] > 2 * drawn.shape[0] * 0.8
    data = json.loads((tmp_path / "out/accuracy.json").read_text())
    assert data["table"]["classes"] == [
        {"name": "face", "boxes": 0, "ap": None, "ap50": None, "ap75": None},
        {"name": "qr code", "boxes": 3, **{key: data["table"][key] for key in ("ap", "ap50", "ap75")}},
    ]
    assert [size["boxes"] for size in data["table"]["sizes"]] == [3, 0, 0]
    assert data["against"]["model"] == "codes_fp32"
    assert data["differences"]["pictures"][0]["extra"] == 1
    assert data["differences"]["worst"][0]["drawn"] == "worst/01_0000.jpg"
    page = (tmp_path / "out/accuracy.md").read_text()
    assert "# Accuracy of codes against codes_fp32" in page
    assert "![Precision and recall of codes](accuracy_curves.png)" in page


def test_two_of_one_name_are_told_apart_by_their_servers(tmp_path: Path) -> None:
    result = measured(yolo(tmp_path, 1), client_of("codes", right), client_of("codes", right))
    assert [one.name for one in result.models] == ["codes at grpc://fake:8001"] * 2
    assert [table.title for table in accuracy_report(result).tables][3:] == [
        "Differences from codes at grpc://fake:8001, by class"
    ]


def test_a_model_whose_classes_are_not_annotated_has_no_curve(tmp_path: Path) -> None:
    for name in ("a", "b"):
        yolo(tmp_path / name, 1)
    (tmp_path / "a/classes.txt").write_text("face\nother\n")
    dataset = open_dataset(tmp_path / "a", None, LABELS)
    report = accuracy_report(measured(dataset, client_of("codes", right)))
    assert report.figures == []
    assert report.data["table"]["ap"] is None
    assert any("not scored: other" in note for note in report.notes)


def test_a_picture_that_fails_is_no_silent_gap(tmp_path: Path) -> None:
    def refuse(request: DetectionRequest) -> Detections:
        raise RequestRejected("no picture")

    with pytest.raises(MeasurementError, match=r"0000\.png failed, so nothing was scored: no picture"):
        measured(yolo(tmp_path, 2), client_of("codes", refuse))


@pytest.mark.slow
def test_memory_grows_by_the_results_alone(tmp_path: Path) -> None:
    """Ten times the pictures, 200 kB each, six in flight at a time: 108 more of them would be 21 MB."""

    def peak_bytes(pictures: int) -> int:
        dataset = yolo(tmp_path / str(pictures), pictures, padding_bytes=200_000)
        clients = client_of("codes", moved_and_more), client_of("codes_fp32", right)
        gc.collect()
        tracemalloc.start()
        try:
            measured(dataset, *clients)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak_bytes(2)
    few, many = peak_bytes(12), peak_bytes(120)
    assert many - few < 2_500_000  # pycocotools takes 10 kB a picture while it scores


def test_what_the_names_do_not_share_is_said() -> None:
    assert label_notes(["qr code", "barcode"], ["barcode", "qr code"]) == []
    assert label_notes(["face", "qr code"], ["barcode", "qr code"]) == [
        "labels of the card that the dataset does not have, ignored: face",
        "classes that the card does not know, not scored: barcode",
    ]
    many = label_notes([*map(str, range(9)), "a"], ["a"])
    assert many[0].endswith("2, 3, 4 and 4 more")
