"""The gate of ``detserve build`` and ``detserve perf accuracy`` give a detector one AP, in any format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detserve_builder.build import probe_pictures
from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.graph.session import open_session
from detserve_builder.infer_card import infer_card
from detserve_builder.precision.candidate_accuracy import average_precision, detections, labelled_dataset
from detserve_builder.preparation.prepare import prepare
from detserve_client import Client
from detserve_client.engine.wire import DetectionRequest
from detserve_client.transports import FakeTransport
from detserve_core.datasets import open_dataset
from detserve_core.detections import Detections
from detserve_perf.accuracy.served_accuracy import score_dataset
from tests.shared_data import VAL64, YOLOX, needs_shared

COCO80 = VAL64 / "coco80.names"


@pytest.fixture(scope="module")
def yolox(tmp_path_factory: pytest.TempPathFactory):
    """Session, card, and a client of a server that finds what the session finds, each picture once."""
    checkpoint = load_checkpoint(str(YOLOX))
    card = infer_card(checkpoint, name="yolox")
    session = open_session(prepare(checkpoint, card, probe_pictures(card)).model)
    sent, known = tmp_path_factory.mktemp("sent") / "picture.jpg", {}

    def answer(request: DetectionRequest) -> Detections:
        if request.picture not in known:
            sent.write_bytes(request.picture)
            known[request.picture] = detections(session, card, sent)
        return known[request.picture]

    return session, card, Client("grpc://fake", card.name, transport=FakeTransport(card, answer))


def write_yolo(folder: Path, coco: dict) -> Path:
    labels = COCO80.read_text().splitlines()
    names = {category["id"]: category["name"] for category in coco["categories"]}
    (folder / "labels").mkdir(parents=True)
    (folder / "images").symlink_to(VAL64 / "images")
    (folder / "data.yaml").write_text(json.dumps({"names": labels, "val": "images"}))
    for image in coco["images"]:
        lines = []
        for row in (a for a in coco["annotations"] if a["image_id"] == image["id"]):
            x, y, w, h = row["bbox"]
            xywh = ((x + w / 2) / image["width"], (y + h / 2) / image["height"])
            xywh += (w / image["width"], h / image["height"])
            lines.append(" ".join(map(str, (labels.index(names[row["category_id"]]), *xywh))))
        (folder / f"labels/{Path(image['file_name']).stem}.txt").write_text("\n".join(lines))
    return folder


def write_voc(folder: Path, coco: dict) -> Path:
    names = {category["id"]: category["name"] for category in coco["categories"]}
    folder.mkdir()
    for image in coco["images"]:
        objects = ""
        for row in (a for a in coco["annotations"] if a["image_id"] == image["id"]):
            x, y, w, h = row["bbox"]
            edges = {"xmin": x + 1, "ymin": y + 1, "xmax": x + w, "ymax": y + h}
            box = "".join(f"<{tag}>{edge}</{tag}>" for tag, edge in edges.items())
            objects += f"<object><name>{names[row['category_id']]}</name><bndbox>{box}</bndbox></object>"
        xml = f"<annotation><filename>{image['file_name']}</filename>{objects}</annotation>"
        (folder / f"{Path(image['file_name']).stem}.xml").write_text(xml)
    return folder


@needs_shared
@pytest.mark.parametrize("form", ["coco", "yolo", "data.yaml", "voc"])
def test_one_detector_and_one_dataset_have_one_ap(tmp_path: Path, yolox, form: str) -> None:
    session, card, client = yolox
    coco = json.loads((VAL64 / "instances_val64.json").read_text())
    if form == "coco":
        labels = VAL64 / "instances_val64.json"
    elif form == "voc":
        labels = write_voc(tmp_path / "voc", coco)
    else:
        labels = write_yolo(tmp_path / "yolo", coco) / ("data.yaml" if form == "data.yaml" else "")
    gate = average_precision(session, card, labelled_dataset(labels, VAL64 / "images", card))
    dataset = open_dataset(labels, VAL64 / "images", card.labels)
    (model,), _ = score_dataset(
        [client], dataset, iou_threshold=None, concurrency=1, worst=0, on_picture=lambda: None
    )
    assert gate == model.table.ap
    assert gate == pytest.approx(0.3330, abs=0.0005)
    assert (dataset.pictures, model.table.boxes) == (64, 461)
