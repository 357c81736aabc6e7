"""A setting is judged by AP where the pictures have labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from detserve_builder.card_search.judge import OnPicture, weights
from detserve_builder.card_search.networks import Networks
from detserve_builder.card_search.settings import Setting
from detserve_builder.precision.evaluation import Truth, detections
from detserve_client.datasets import AnnotatedPicture
from detserve_client.datasets.average_precision import AveragePrecision, ClassMatches
from detserve_client.detections import Detections

_ANY = ("object",)


@dataclass
class Labelled:
    """Judges by AP. What was found is kept: nothing runs twice."""

    networks: Networks
    labels: tuple[str, ...]
    annotated: Sequence[AnnotatedPicture]
    on_picture: OnPicture
    figure: str = "AP"
    worthless: float = 0.01
    _found: dict[tuple[Setting, int], Detections] = field(default_factory=dict)
    _matches: dict[tuple[Setting, int, bool], list[ClassMatches]] = field(default_factory=dict)

    @property
    def pictures(self) -> Sequence[int]:
        """As :class:`~detserve_builder.card_search.judge.Judge` says, and so below."""
        return range(len(self.annotated))

    def score(self, setting: Setting, pictures: Sequence[int], *, of_any_class: bool = False) -> float:
        """Area under the curves, which COCO reads off at 101 points."""
        if self.networks.opened(setting) is None:
            return -1.0
        matches = [self._matched(setting, index, of_any_class) for index in pictures]
        return float(weighted_ap(matches, np.ones((1, len(pictures))))[0])

    def resampled(self, setting: Setting) -> NDArray[np.float64]:
        """The same, with the pictures' weights."""
        matches = [self._matched(setting, index, of_any_class=False) for index in self.pictures]
        return weighted_ap(matches, weights(len(self.annotated)))

    def reported(self, setting: Setting) -> float:
        """COCO's AP."""
        scored = AveragePrecision(self.networks.card.labels, self.labels)
        for index, picture in enumerate(self.annotated):
            scored.update(picture, self._detected(setting, index))
        return scored.result()[0].ap or 0.0

    def _matched(self, setting: Setting, index: int, of_any_class: bool) -> list[ClassMatches]:
        key = (setting, index, of_any_class)
        if key not in self._matches:
            picture, found = self.annotated[index], self._detected(setting, index)
            scored = AveragePrecision(self.networks.card.labels, self.labels)
            if of_any_class:
                picture = replace(picture, classes=np.zeros_like(picture.classes))
                found = Detections(found.boxes, found.scores, np.zeros_like(found.classes), _ANY)
                scored = AveragePrecision(_ANY, _ANY)
            scored.update(picture, found)
            self._matches[key] = scored.matches()
        return self._matches[key]

    def _detected(self, setting: Setting, index: int) -> Detections:
        if (setting, index) not in self._found:
            opened = self.networks.opened(setting)
            assert opened is not None  # noqa: S101 - score has said so
            self._found[setting, index] = detections(*opened, self.annotated[index].path)
            self.on_picture()
        return self._found[setting, index]


def labelled(networks: Networks, truth: Truth, most: int, on_picture: OnPicture) -> Labelled:
    """A judge by ``most`` of the labelled pictures at most, spread over them all."""
    every = list(truth.dataset.read())
    step = max(1, -(-len(every) // most))
    return Labelled(networks, truth.dataset.labels, every[::step], on_picture)


def weighted_ap(pictures: Sequence[list[ClassMatches]], drawn: NDArray[np.float64]) -> NDArray[np.float64]:
    """AP with weighted pictures: the area under precision's envelope, over classes and IoU thresholds.

    ``drawn`` [B,pictures] are B times the weights; returns [B]. A class without a box does not count.
    """
    figures = []
    for classes in zip(*pictures, strict=True):
        boxes = drawn @ np.array([one.boxes for one in classes], np.float64)
        if not boxes.any():
            continue
        scores = np.concatenate([one.scores for one in classes])
        order = np.argsort(-scores, kind="stable")
        of_picture = np.repeat(np.arange(len(classes)), [len(one.scores) for one in classes])[order]
        hit = np.concatenate([one.hit for one in classes], axis=1)[:, order]  # [10,D]
        counts = ~np.concatenate([one.ignored for one in classes], axis=1)[:, order]
        weight = drawn[:, None, of_picture]  # [B,1,D]
        gained, seen = weight * (hit & counts), weight * counts
        found = np.cumsum(gained, axis=2)
        precision = found / np.maximum(np.cumsum(seen, axis=2), 1e-12)
        envelope = np.maximum.accumulate(precision[..., ::-1], axis=2)[..., ::-1]
        area = (envelope * gained).sum(axis=2) / np.maximum(boxes, 1e-12)[:, None]
        figures.append(area.mean(axis=1))
    return np.asarray(np.mean(figures, axis=0)) if figures else np.zeros(len(drawn))
