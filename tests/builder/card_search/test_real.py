"""Published detectors: from a wrong card, a few pictures lead to the right one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.commands.inspect import app
from detserve_builder.infer_card import read_card
from detserve_client import Card
from tests.shared_data import SHARED, VAL64, needs_shared
from tests.ssd_checkpoints import save_ssd_checkpoints

pytestmark = needs_shared
TRAINED = SHARED / "models/todays/trained"
WRONG = {"preprocess": {"resize": "stretch", "color": "rgb", "scale": 1.0, "mean": [0] * 3, "std": [1] * 3}}


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Eight pictures of coco_val64: their folder and their labels."""
    return part_of_val64(tmp_path_factory.mktemp("few"), 8)


def part_of_val64(folder: Path, step: int) -> tuple[Path, Path]:
    truth = json.loads((VAL64 / "instances_val64.json").read_text())
    truth["images"] = truth["images"][::step]
    ids = {image["id"] for image in truth["images"]}
    truth["annotations"] = [box for box in truth["annotations"] if box["image_id"] in ids]
    (folder / "labels.json").write_text(json.dumps(truth))
    (folder / "images").mkdir()
    for image in truth["images"]:
        (folder / "images" / image["file_name"]).symlink_to(VAL64 / "images" / image["file_name"])
    return folder / "images", folder / "labels.json"


def decided(checkpoint: Path, tmp_path: Path, said: dict[str, object], *options: str) -> tuple[Card, str]:
    (tmp_path / "wrong.json").write_text(json.dumps(said))
    arguments = [str(checkpoint), "--card", str(tmp_path / "wrong.json"), *options]
    result = CliRunner(env={"COLUMNS": "200"}).invoke(
        app, [*arguments, "--output", str(tmp_path / "right.json")]
    )
    assert result.exit_code == 0, result.output
    right = read_card(load_checkpoint(str(checkpoint)), said=tmp_path / "right.json")
    return right.card, result.stdout


@pytest.mark.slow
def test_nanodet_by_labels(tmp_path, few) -> None:
    images, labels = few
    card, shown = decided(
        TRAINED / "nanodet_m_320.onnx", tmp_path, WRONG, "--images", str(images), "--evaluate", str(labels)
    )
    assert card.preprocess.color.value == "bgr"
    assert card.preprocess.mean == pytest.approx([0.406, 0.456, 0.485])
    assert "measured" in shown
    assert "leads by" in shown
    assert "with the card as it was AP 0.0" in shown


@pytest.mark.slow
def test_picodet_without_labels(tmp_path) -> None:
    images, _ = part_of_val64(tmp_path, 4)
    card, shown = decided(TRAINED / "picodet_s_320_coco.onnx", tmp_path, {}, "--images", str(images))
    assert card.preprocess.color.value == "rgb"
    assert card.preprocess.resize.value == "stretch"
    assert "agreement" in shown


@pytest.mark.slow
def test_ssd_with_its_classes_off_by_one(tmp_path, few) -> None:
    images, labels = few
    checkpoint, right = save_ssd_checkpoints(tmp_path)["ssd_mobilenet"]
    columns = json.loads(right.read_text())["head"]["class_columns"]
    said = {"head": {"class_columns": [column - 1 for column in columns]}}
    card, shown = decided(checkpoint, tmp_path, said, "--images", str(images), "--evaluate", str(labels))
    assert card.head["class_columns"] == columns
    assert "head.class_columns" in shown
