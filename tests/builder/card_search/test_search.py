"""The descent finds the best of all settings from any start, with a part of the runs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

from detserve_builder.card_search import search
from detserve_builder.card_search.judge import lead, weights
from detserve_builder.card_search.settings import STANDARD, Setting, choices, setting_of, with_setting
from detserve_builder.card_sources import InferredCard, Source, value_range
from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.infer_card import read_card
from detserve_core.card import Card, ColorOrder, Resize
from tests.builder.tiny_networks import save_linear_network

GEOMETRIES = [
    (Resize.STRETCH, 114),
    *product((Resize.LETTERBOX_CENTER, Resize.LETTERBOX_TOPLEFT), (114, 0)),
]
CHOICES = {"values": list(STANDARD), "color": list(ColorOrder), "geometry": GEOMETRIES, "columns": [None]}


class Fake:
    """Says of each setting how near it is to the right one: each axis takes its share, and there is noise."""

    figure, worthless = "score", 0.01

    def __init__(self, right: Setting, pictures: int = 64) -> None:
        self.right, self.pictures, self.runs = right, range(pictures), set()

    def values(self, setting: Setting) -> np.ndarray:
        share = 1.0
        share *= 1 if setting.values == self.right.values else 0.3
        share *= 1 if setting.color == self.right.color else 0.9
        share *= 1 if setting.geometry[0] == self.right.geometry[0] else 0.85
        share *= 1 if setting.geometry[1] == self.right.geometry[1] else 0.97
        noise = np.random.default_rng(crc32(repr(setting).encode())).normal(0, 0.01, len(self.pictures))
        return share * 0.4 + noise

    def score(self, setting: Setting, pictures: Sequence[int], *, of_any_class: bool = False) -> float:
        self.runs |= {(setting, picture) for picture in pictures}
        return float(self.values(setting)[list(pictures)].mean())

    def resampled(self, setting: Setting) -> np.ndarray:
        return weights(len(self.pictures)) @ self.values(setting) / len(self.pictures)

    def reported(self, setting: Setting) -> str:
        return "score"


@pytest.mark.parametrize("start", range(50))
def test_the_right_setting_from_every_wrong_start(start: int) -> None:
    every = [Setting(*one, None) for one in product(STANDARD, ColorOrder, GEOMETRIES)]
    right = Setting(STANDARD[2], ColorOrder.BGR, (Resize.LETTERBOX_CENTER, 0), None)
    judge, begun = Fake(right), every[start]
    ordered = {
        axis: sorted(tried, key=lambda choice: choice != getattr(begun, axis))
        for axis, tried in CHOICES.items()
    }
    assert search.find(judge, ordered) == right
    assert len(judge.runs) < len(every) * len(judge.pictures) / 3
    assert lead(judge, right, begun).certain == (right != begun)


def test_equal_settings_have_no_lead() -> None:
    right = Setting(STANDARD[0], ColorOrder.RGB, GEOMETRIES[0], None)
    assert not lead(Fake(right), right, right).certain


@pytest.fixture
def inferred(tmp_path: Path) -> InferredCard:
    return read_card(load_checkpoint(str(save_linear_network(tmp_path / "x.onnx", {"output": [84, 8]}))))


def test_a_setting_and_its_card(inferred: InferredCard) -> None:
    """Mean and std turn round with the colour order."""
    setting = Setting(STANDARD[2], ColorOrder.BGR, (Resize.STRETCH, 0), None)
    card = with_setting(inferred.card, setting)
    assert card.preprocess.mean == (0.406, 0.456, 0.485)
    assert card.preprocess.std == (0.225, 0.224, 0.229)
    assert setting_of(card) == setting
    assert Card.from_json(card.to_json()) == card


def test_what_the_graph_settles_is_not_tried(inferred: InferredCard) -> None:
    tried = choices(inferred, labelled=True)
    assert [len(tried[axis]) for axis in ("values", "color", "geometry", "columns")] == [5, 2, 5, 1]
    assert tried["geometry"][0] == setting_of(inferred.card).geometry
    names = {f"preprocess.{part}": Source.GRAPH for part in ("scale", "mean", "std")}
    settled = InferredCard(inferred.card, {**inferred.sources, **names}, {})
    assert choices(settled, labelled=True)["values"] == [setting_of(inferred.card).values]


def test_one_range_in_two_forms_is_tried_once(inferred: InferredCard) -> None:
    """ImageNet's in pixels, as Paddle writes it, and UltraFace's 127 and 128."""
    for mean, std, known in (
        ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "ImageNet's mean and std"),
        ((127, 127, 127), (128, 128, 128), "-1..1"),
    ):
        spec = inferred.card.preprocess.model_copy(
            update={"color": ColorOrder.RGB, "scale": 1.0, "mean": mean, "std": std}
        )
        said = InferredCard(inferred.card.model_copy(update={"preprocess": spec}), inferred.sources, {})
        values = choices(said, labelled=False)["values"]
        assert (len(values), values[0].name, values[0].mean) == (5, known, mean)
        assert value_range(spec) == known


def test_columns_are_tried_with_and_without_background() -> None:
    card = read_card(load_checkpoint("codes_ssd")).card
    now, count = tuple(card.head["class_columns"]), len(card.labels)
    inferred = InferredCard(card, {}, {})
    assert now == tuple(range(1, count + 1))
    assert choices(inferred, labelled=False)["columns"] == [now]
    tried = choices(inferred, labelled=True)["columns"]
    assert tried == [now, tuple(range(count)), tuple(range(2, count + 2))]
    assert with_setting(card, setting_of(card)).head == card.head
