"""What becomes of a card: measured, said or still a guess, and where nothing can be told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from detserve_builder.card_search.decide import decision_of
from detserve_builder.card_search.settings import STANDARD, Setting, choices, setting_of
from detserve_builder.card_sources import InferredCard, Source
from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.commands.inspect import app
from detserve_builder.infer_card import read_card
from detserve_core.card import ColorOrder, Resize
from tests.builder.card_search.test_search import Fake
from tests.builder.tiny_networks import save_yolox

RIGHT = Setting(STANDARD[2], ColorOrder.RGB, (Resize.LETTERBOX_CENTER, 114), None)
PREPROCESS = [f"preprocess.{name}" for name in ("resize", "pad_value", "color", "scale", "mean", "std")]


def inferred(tmp_path: Path, said: dict[str, object]) -> InferredCard:
    (tmp_path / "said.json").write_text(json.dumps({"preprocess": said}))
    return read_card(
        load_checkpoint(str(save_yolox(tmp_path / "x.onnx"))), said=tmp_path / "said.json" if said else None
    )


class Noisy(Fake):
    """Padding and colour make no difference that 64 pictures could show."""

    def values(self, setting: Setting) -> np.ndarray:
        same = replace(
            setting, geometry=(setting.geometry[0], self.right.geometry[1]), color=self.right.color
        )
        noise = np.random.default_rng(crc32(repr(setting)[::-1].encode())).normal(0, 0.01, len(self.pictures))
        return super().values(same) + noise


def test_what_leads_is_measured(tmp_path) -> None:
    found = inferred(tmp_path, {})
    decision = decision_of(Fake(RIGHT), found, None, choices(found, labelled=True))
    assert setting_of(decision.inferred.card) == RIGHT
    assert {decision.inferred.sources[name] for name in PREPROCESS} == {Source.MEASURED}
    assert not set(PREPROCESS) & set(decision.inferred.guesses)
    assert decision.inferred.leads["preprocess.color"].startswith("leads by 0.04")
    assert "with the card as it was" in decision.sentence


def test_what_does_not_lead_is_still_a_guess(tmp_path) -> None:
    found = inferred(tmp_path, {})
    decided = decision_of(Noisy(RIGHT), found, None, choices(found, labelled=True)).inferred
    assert decided.sources["preprocess.scale"] is Source.MEASURED
    assert decided.sources["preprocess.color"] is Source.GUESS
    assert "within the noise" in decided.guesses["preprocess.color"]


def test_what_was_said_stands_within_the_noise_and_falls_beyond(tmp_path) -> None:
    said = {"color": "bgr", "pad_value": 0, "scale": 1.0, "resize": "letterbox_center"}
    found = inferred(tmp_path, said)
    decided = decision_of(Noisy(RIGHT), found, None, choices(found, labelled=True)).inferred
    assert (decided.card.preprocess.color, decided.sources["preprocess.color"]) == (
        ColorOrder.BGR,
        Source.SAID,
    )
    assert "within the noise" in decided.leads["preprocess.color"]
    assert decided.card.preprocess.scale == 1 / 255
    assert decided.sources["preprocess.scale"] is Source.MEASURED


@pytest.mark.parametrize(("pad_value", "stays"), [(0, True), (114, False)])
def test_the_familys_way_stands_where_it_is_close(tmp_path, pad_value, stays) -> None:
    """The pad costs 3 %, another resize 15."""
    found = inferred(tmp_path, {})
    usual = (Resize.LETTERBOX_CENTER if stays else Resize.STRETCH, pad_value)
    decided = decision_of(Fake(RIGHT), found, usual, choices(found, labelled=True)).inferred
    assert (setting_of(decided.card).geometry == usual) == stays
    assert (decided.sources["preprocess.pad_value"] is Source.GUESS) == stays


@pytest.mark.parametrize("labelled", [True, False])
def test_a_detector_that_finds_nothing(tmp_path, labelled) -> None:
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    truth = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "class_0"}]}
    for number in range(4):
        cv2.imwrite(str(images / f"{number}.png"), rng.integers(0, 256, (90, 120, 3), np.uint8))
        truth["images"].append({"id": number, "file_name": f"{number}.png", "width": 120, "height": 90})
        box = {"bbox": [1, 2, 5, 3], "area": 15, "iscrowd": 0, "id": number + 1}
        truth["annotations"].append({**box, "image_id": number, "category_id": 1})
    (tmp_path / "labels.json").write_text(json.dumps(truth))
    evaluate = ["--evaluate", str(tmp_path / "labels.json")] if labelled else []
    network = str(save_yolox(tmp_path / "x.onnx"))
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [network, "--images", str(images), *evaluate])
    assert result.exit_code == 0, result.output
    assert "cannot tell: with the best of all settings" in result.stdout
    assert "measured" not in result.stdout
