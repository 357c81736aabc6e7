"""Speed and accuracy of the default detector on a real server. Short: the speed itself is not checked."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from detserve_client import Client
from detserve_core.repository.served_steps import open_steps
from detserve_perf.accuracy.served_accuracy import Accuracy, ServedModel, measure_accuracy
from detserve_perf.errors import MeasurementError
from detserve_perf.load.perf_analyzer_run import LoadPoint
from detserve_perf.speed.sweep import Sweep, SweepSettings, sweep
from detserve_server.triton.embedded import RunningServer
from tests.live.conftest import DEFAULT, SAMPLES
from tests.shared_data import VAL64, needs_shared

SETTINGS = SweepSettings((LoadPoint(concurrency=2, batch=2),), requests=6, repeats=1)


@dataclass(frozen=True)
class Target:
    url: str
    repository: Path


@pytest.fixture(params=["grpc", "http"])
def served(request: pytest.FixtureRequest, server: RunningServer, repository: Path) -> Target:
    return Target(server.grpc_url if request.param == "grpc" else server.http_url, repository)


def _sweep(served: Target, pictures: Path, phases: list[str]) -> Sweep:
    return sweep(served.url, DEFAULT, pictures, served.repository, SETTINGS, phases.append)


@pytest.mark.usefixtures("perf_analyzer")
def test_a_sweep_measures_the_server_and_the_same_steps_in_process(
    served: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    phases: list[str] = []
    result = _sweep(served, SAMPLES, phases)
    assert len(phases) == SETTINGS.phases(reference=True)
    assert len(result.references) == 2
    (run,) = result.runs
    assert [step.model for step in run.steps] == [f"{DEFAULT}_pipeline"]
    assert all(step.requests >= 6 and step.compute_infer_ms > 0 for step in run.steps)
    assert run.steps[0].pictures_per_execution >= 2
    assert 0 < run.load.p50_ms <= run.load.p90_ms <= run.load.p99_ms
    assert run.ratio is not None
    assert run.ratio > 0
    assert result.machine.triton


@pytest.mark.usefixtures("perf_analyzer")
def test_a_picture_that_the_server_refuses_stops_the_sweep(served: Target, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    shutil.copy(sorted(SAMPLES.glob("*.jpg"))[0], tmp_path / "b.jpg")
    phases: list[str] = []
    with pytest.raises(MeasurementError, match=r"a\.jpg: the picture is rejected: not a JPEG"):
        sweep(served.url, DEFAULT, tmp_path, None, SETTINGS, phases.append)
    assert phases == []


def test_the_reference_detects_what_the_server_detects(served: Target, sample: Path) -> None:
    (detect,) = open_steps(served.repository, DEFAULT, 1)
    num, boxes, scores, classes = detect(sample.read_bytes())  # type: ignore[misc]
    with Client(served.url, DEFAULT) as client:
        answer = client.detect(sample)
    assert num[0] == len(answer.boxes) > 0
    assert classes[: num[0]].tolist() == answer.classes.tolist()
    np.testing.assert_allclose(boxes[: num[0]], answer.boxes, atol=0.1)
    np.testing.assert_allclose(scores[: num[0]], answer.scores, atol=1e-3)


def test_a_detector_agrees_fully_with_its_own_confident_detections(served: Target, tmp_path: Path) -> None:
    annotations = tmp_path / "instances.json"
    with Client(served.url, DEFAULT) as client:
        annotations.write_text(json.dumps(_own_annotations(client)))
    pictures: list[int] = []
    result = _accuracy(served, annotations, SAMPLES, pictures)
    table = result.models[0].table
    assert pictures == [table.pictures, *[1] * table.pictures]
    assert table.boxes > 0
    assert table.ap == pytest.approx(1, abs=1e-3)


def test_a_picture_that_fails_is_no_silent_gap(served: Target, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    annotations = tmp_path / "instances.json"
    with Client(served.url, DEFAULT) as client:
        own = _own_annotations(client)
    own["annotations"] = own["annotations"][:1]
    own["images"] = [{"id": own["annotations"][0]["image_id"], "file_name": "bad.jpg"}]
    annotations.write_text(json.dumps(own))
    with pytest.raises(MeasurementError, match=r"bad\.jpg failed, so nothing was scored"):
        _accuracy(served, annotations, tmp_path, [])


def test_a_detector_does_not_differ_from_itself_over_the_other_protocol(
    served: Target, server: RunningServer, tmp_path: Path
) -> None:
    annotations = tmp_path / "instances.json"
    with Client(served.url, DEFAULT) as client:
        annotations.write_text(json.dumps(_own_annotations(client)))
    other = server.http_url if served.url == server.grpc_url else server.grpc_url
    result = _accuracy(served, annotations, SAMPLES, [], ServedModel(other, DEFAULT))
    assert result.differences is not None
    everything, *_ = result.differences.by_class()
    assert everything.matched > 0
    assert (everything.moved, everything.missed, everything.extra) == (0, 0, 0)
    assert result.models[0].table == result.models[1].table


@needs_shared
def test_the_format_of_the_annotations_changes_no_figure(server: RunningServer, tmp_path: Path) -> None:
    """Written by the formats' own formulas; VOC's corners keep their fractions."""
    coco = json.loads((VAL64 / "instances_val64.json").read_text())
    for name in ("images", "labels", "Annotations"):
        (tmp_path / name).mkdir()
    labels = (VAL64 / "coco80.names").read_text().splitlines()
    names = {category["id"]: category["name"] for category in coco["categories"]}
    for image in coco["images"]:
        own = [a for a in coco["annotations"] if a["image_id"] == image["id"] and not a["iscrowd"]]
        rows = [(names[a["category_id"]], *a["bbox"]) for a in own]
        _write_yolo_and_voc(tmp_path, image, rows, labels)
        (tmp_path / "images" / image["file_name"]).symlink_to(VAL64 / "images" / image["file_name"])
    target = Target(server.grpc_url, tmp_path)
    tables = [_accuracy(target, VAL64 / "instances_val64.json", None, [], model="yolox").models[0].table]
    tables.append(_accuracy(target, tmp_path, None, [], model="yolox").models[0].table)
    (tmp_path / "labels").rename(tmp_path / "no_labels")
    tables.append(_accuracy(target, tmp_path, None, [], model="yolox").models[0].table)
    assert [table.boxes for table in tables] == [tables[0].boxes] * 3
    assert [table.ap for table in tables] == pytest.approx([tables[0].ap] * 3, abs=0.003)
    assert [table.ap50 for table in tables] == pytest.approx([tables[0].ap50] * 3, abs=0.003)


def _write_yolo_and_voc(folder: Path, image: dict, rows: list[tuple], labels: list[str]) -> None:  # type: ignore[type-arg]
    width, height = image["width"], image["height"]
    lines, objects = [], []
    for name, x, y, w, h in rows:
        fractions = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
        lines.append(" ".join(map(str, (labels.index(name), *fractions))))
        edges = zip(("xmin", "ymin", "xmax", "ymax"), (x + 1, y + 1, x + w, y + h), strict=True)
        corners = "".join(f"<{tag}>{edge}</{tag}>" for tag, edge in edges)
        objects.append(f"<object><name>{name}</name><bndbox>{corners}</bndbox></object>")
    stem, file = Path(image["file_name"]).stem, f"<filename>{image['file_name']}</filename>"
    (folder / f"labels/{stem}.txt").write_text("\n".join(lines))
    (folder / f"Annotations/{stem}.xml").write_text(f"<annotation>{file}{''.join(objects)}</annotation>")


def _accuracy(
    served: Target,
    dataset: Path,
    images: Path | None,
    calls: list[int],
    against: ServedModel | None = None,
    model: str = DEFAULT,
) -> Accuracy:
    return measure_accuracy(
        ServedModel(served.url, model),
        dataset,
        images,
        iou_threshold=None,
        concurrency=2,
        against=against,
        on_pictures=calls.append,
        on_picture=lambda: calls.append(1),
    )


def _own_annotations(client: Client) -> dict:  # type: ignore[type-arg]
    """What the detector is sure of, as if somebody had annotated it."""
    images, boxes = [], []
    for image_id, path in enumerate(sorted(SAMPLES.glob("*.jpg"))[:4], 1):
        images.append({"id": image_id, "file_name": path.name})
        found = client.detect(path, score_threshold=0.5)
        for box, label in zip(found.boxes.tolist(), found.classes.tolist(), strict=True):
            x1, y1, x2, y2 = box
            entry = {"image_id": image_id, "category_id": label + 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            boxes.append({"id": len(boxes) + 1, **entry})
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(client.card().labels)]
    return {"images": images, "annotations": boxes, "categories": categories}
