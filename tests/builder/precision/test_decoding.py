"""Large JPEGs are decoded reduced where the card says so, or labelled pictures show that AP is kept."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from detserve_builder.build import build
from detserve_builder.precision import decoding
from detserve_builder.precision.request import Precision, PrecisionRequest
from detserve_core.card import Decode

SAMPLES = Path(__file__).parents[3] / "zoo/samples"
MEASURED = PrecisionRequest(Precision.FP32, evaluate=SAMPLES / "instances.json", images=SAMPLES)


def manifest(repository: Path) -> dict:
    return json.loads((repository / "codes/detserve.json").read_text())


@pytest.mark.parametrize(("most_ap_lost", "expected"), [(1.0, "reduced"), (-1.0, "whole")])
def test_measured_on_labelled_pictures(tmp_path, monkeypatch, most_ap_lost: float, expected: str) -> None:
    monkeypatch.setattr(decoding, "MAX_AP_DROP", most_ap_lost)
    built = build("codes_yolo", name="codes", repository=tmp_path, request=MEASURED)
    assert built.card.preprocess.decode is Decode(expected)
    written = manifest(tmp_path)
    assert written["card"]["preprocess"]["decode"] == expected
    assert f'\\"decode\\":\\"{expected}\\"' in (tmp_path / "codes_pipeline/config.pbtxt").read_text()
    figures = written["measured"]["decode"]
    assert figures["figure"] == "AP"
    assert min(figures["whole"], figures["reduced"]) > 0.6
    assert figures["whole"] != figures["reduced"]
    assert figures["pictures_that_differ"] == 8


@pytest.mark.parametrize("said", ["whole", "reduced"])
def test_the_cards_word_goes_before(tmp_path, said: str) -> None:
    card = tmp_path / "card.json"
    card.write_text(json.dumps({"preprocess": {"decode": said}}))
    build("codes_yolo", name="codes", repository=tmp_path / "r", card_path=card, request=MEASURED)
    assert manifest(tmp_path / "r")["card"]["preprocess"]["decode"] == said
    assert manifest(tmp_path / "r")["measured"] == {}


def test_nothing_is_measured_where_no_picture_would_be_reduced(tmp_path) -> None:
    for path in SAMPLES.glob("*.jpg"):
        cv2.imwrite(str(tmp_path / f"{path.stem}.png"), cv2.imread(str(path)))
    truth = json.loads((SAMPLES / "instances.json").read_text())
    for image in truth["images"]:
        image["file_name"] = f"{Path(image['file_name']).stem}.png"
    labels = tmp_path / "instances.json"
    labels.write_text(json.dumps(truth))
    request = PrecisionRequest(Precision.FP32, evaluate=labels, images=tmp_path)
    built = build("codes_yolo", name="codes", repository=tmp_path / "r", request=request)
    assert built.card.preprocess.decode is Decode.WHOLE
    assert manifest(tmp_path / "r")["measured"] == {}
