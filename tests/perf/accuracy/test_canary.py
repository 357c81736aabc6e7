"""What a new detector changes, by hand-made boxes of two servers in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from detserve_client import Client
from detserve_client.engine.wire import DetectionRequest
from detserve_client.transports import FakeTransport
from detserve_core.card import Card
from detserve_core.detections import Detections
from detserve_core.errors import InferenceError, RequestRejected, ServerFault, ServerUnavailable
from detserve_perf.accuracy.canary import AllowedChange, Comparison, compare_dataset, compare_pictures
from detserve_perf.accuracy.differences import Counts
from detserve_perf.commands.canary import app
from detserve_perf.errors import MeasurementError
from tests.perf.accuracy.test_differences import A_MOVED, A, B, C, found

STRICT = AllowedChange(max_changed=0, min_iou=1, max_ap_drop=0)
Answer = Detections | InferenceError


def _client(answers: list[Answer], labels: tuple[str, ...] = ("dog", "cat")) -> Client:
    """A detector whose answer to the picture ``b"3"`` is the third of ``answers``, from 0."""
    card = Card(
        name="pets",
        family="yolox",
        input_wh=(64, 64),
        preprocess={"resize": "stretch"},  # type: ignore[arg-type]
        labels=list(labels),
    )

    def answer(request: DetectionRequest) -> Detections:
        chosen = answers[int(request.picture)]
        if isinstance(chosen, InferenceError):
            raise chosen
        return chosen

    return Client("grpc://fake", "pets", timeout_s=1, transport=FakeTransport(card, answer))


@pytest.fixture
def compare(tmp_path: Path) -> Callable[[list[Answer], list[Answer]], Comparison]:
    def run(old: list[Answer], new: list[Answer]) -> Comparison:
        pictures = []
        for number in range(len(old)):
            pictures.append(tmp_path / f"{number}.jpg")
            pictures[-1].write_bytes(str(number).encode())
        return compare_pictures(_client(old), _client(new), pictures, concurrency=2, on_picture=lambda: None)

    return run


def test_the_same_answers_pass_the_strictest_limits(compare) -> None:  # type: ignore[no-untyped-def]
    answers: list[Answer] = [found((A, 0.9, 0), (B, 0.8, 1)), found(), RequestRejected("no picture")]
    comparison = compare(answers, answers)
    assert (comparison.pictures, comparison.changed, comparison.failed) == (3, 0, 0)
    assert comparison.breaches(STRICT) == []


def test_each_kind_of_change_counts_its_picture_once(compare) -> None:  # type: ignore[no-untyped-def]
    old = [found((A, 0.9, 0), (B, 0.8, 0))] * 6
    new = [
        found((A, 0.7, 0), (B, 0.6, 0)),  # scores alone
        found((A, 0.9, 0)),  # missed
        found((A, 0.9, 0), (B, 0.8, 0), (C, 0.7, 0)),  # extra
        found((A_MOVED, 0.9, 0), (B, 0.8, 0)),  # moved
        found((A, 0.9, 1), (B, 0.8, 1)),  # other class: missed and extra, twice
        ServerFault("the model died"),
    ]
    comparison = compare(old, new)
    total = comparison.boxes[0]
    assert (comparison.changed, comparison.failed) == (5, 1)
    assert (total.matched, total.moved, total.missed, total.extra) == (7, 1, 3, 3)
    said = comparison.breaches(AllowedChange(max_changed=0.5, min_iou=0.99, max_ap_drop=0))
    assert len(said) == 3
    assert "failed on 1 pictures" in said[0]
    assert "the model died" in said[0]
    assert said[1] == "detections changed on 83.3% of the pictures, allowed are 50.0%"
    assert said[2] == "matched boxes overlap by 0.9524 on average, wanted are 0.9900"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ([], [], "no picture to compare"),
        ([found()], [found()], "neither detector found a box in 1 pictures"),
        ([RequestRejected("no")], [RequestRejected("no")], "neither detector found a box"),
        ([ServerUnavailable("gone")], [found((A, 0.9, 0))], "the old detector failed on"),
        ([ServerFault("dead")], [ServerFault("dead")], "the old detector failed on"),
        ([RequestRejected("no")], [found((A, 0.9, 0))], "the old detector failed on"),
    ],
)
def test_what_compares_nothing_does_not_pass(compare, old, new, said) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(MeasurementError, match=said):
        compare(old, new)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 20))
def test_a_limit_is_passed_exactly_when_the_figure_is_beyond_it(
    limit: float, drop: float, changed: int
) -> None:
    same = _counts()
    comparison = Comparison(20, changed, 0, "", (same,), (1.0, 1.0 - drop))
    said = comparison.breaches(AllowedChange(max_changed=limit, min_iou=0, max_ap_drop=limit))
    assert len(said) == (changed / 20 > limit) + (1.0 - (1.0 - drop) > limit)


def _counts() -> Counts:
    return Counts("all classes", 10, 0, 0, 0, 1.0, 0.0)


def test_with_labels_ap_is_compared(tmp_path: Path) -> None:
    images, boxes = [], []
    for number in range(4):
        (tmp_path / f"{number}.jpg").write_bytes(str(number).encode())
        images.append({"id": number, "file_name": f"{number}.jpg", "width": 400, "height": 400})
        boxes.append(
            {
                "id": number + 1,
                "image_id": number,
                "category_id": 1,
                "bbox": [0, 0, 100, 100],
                "area": 1e4,
                "iscrowd": 0,
            }
        )
    labels = tmp_path / "instances.json"
    labels.write_text(
        json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "dog"}]})
    )
    right, wrong = found((A, 0.9, 0)), found((C, 0.9, 0))
    comparison = compare_dataset(
        _client([right] * 4),
        _client([right, right, right, wrong]),
        labels,
        tmp_path,
        concurrency=2,
        on_picture=lambda: None,
    )
    assert comparison.ap is not None
    assert comparison.ap[0] == pytest.approx(1)
    assert comparison.ap[1] < 0.8
    assert comparison.changed == 1
    assert comparison.boxes[0].missed == comparison.boxes[0].extra == 1
    assert any(one.startswith("AP fell from 1.0000 to 0.") for one in comparison.breaches(STRICT))
    assert np.isfinite(comparison.ap).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--pictures"),
        (["--from-stdin", "--pictures", "x"], "cannot be used with"),
        (["--pictures", "x", "--max-changed", "2"], "--max-changed"),
    ],
)
def test_wrong_usage_is_told(arguments: list[str], words: str) -> None:
    servers = ["--old", "grpc://127.0.0.1:1", "--new", "grpc://127.0.0.1:2", "--model", "pets"]
    answer = CliRunner().invoke(app, [*servers, *arguments])
    assert answer.exit_code == 2
    assert words in answer.output
