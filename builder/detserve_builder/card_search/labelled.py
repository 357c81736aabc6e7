"""A setting is judged by AP where the pictures have labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from detserve_builder.card_search.judge import IMPOSSIBLE, OnPicture, weights
from detserve_builder.card_search.networks import Networks
from detserve_builder.card_search.settings import Setting
from detserve_builder.precision.candidate_accuracy import Truth, detections
from detserve_core.datasets import AnnotatedPicture
from detserve_core.datasets.average_precision import AveragePrecision, ClassMatches
from detserve_core.detections import Detections

_ANY = ("object",)


@dataclass
class Labelled:
    """Judges by AP with the boxes of all classes in one curve. What was found is kept: nothing runs twice.

    COCO's AP is the mean over classes: in some tens of pictures one box of a rare class moves it by more than
    a wrong colour order does.
    """

    networks: Networks
    labels: tuple[str, ...]
    annotated: Sequence[AnnotatedPicture]
    on_picture: OnPicture
    figure: str = "AP over all classes"
    worthless: float = 0.01
    _found: dict[tuple[Setting, int], Detections] = field(default_factory=dict)
    _matches: dict[tuple[Setting, int, bool], ClassMatches] = field(default_factory=dict)

    @property
    def pictures(self) -> Sequence[int]:
        """As :class:`~detserve_builder.card_search.judge.Judge` says, and so below."""
        return range(len(self.annotated))

    def score(self, setting: Setting, pictures: Sequence[int], *, of_any_class: bool = False) -> float:
        """Area under the curve."""
        if self.networks.opened(setting) is None:
            return IMPOSSIBLE
        matches = [self._matched(setting, index, of_any_class) for index in pictures]
        return float(weighted_ap(matches, np.ones((1, len(pictures))))[0])

    def resampled(self, setting: Setting) -> NDArray[np.float64]:
        """The same, with the pictures' weights."""
        matches = [self._matched(setting, index, of_any_class=False) for index in self.pictures]
        return weighted_ap(matches, weights(len(self.annotated)))

    def reported(self, setting: Setting) -> str:
        """COCO's AP."""
        scored = AveragePrecision(self.networks.card.labels, self.labels)
        for index, picture in enumerate(self.annotated):
            scored.update(picture, self._detected(setting, index))
        return f"AP {scored.result()[0].ap or 0.0:.4f}"

    def _matched(self, setting: Setting, index: int, of_any_class: bool) -> ClassMatches:
        key = (setting, index, of_any_class)
        if key not in self._matches:
            picture, found = self.annotated[index], self._detected(setting, index)
            scored = AveragePrecision(self.networks.card.labels, self.labels)
            if of_any_class:
                picture = replace(picture, classes=np.zeros_like(picture.classes))
                found = Detections(found.boxes, found.scores, np.zeros_like(found.classes), _ANY)
                scored = AveragePrecision(_ANY, _ANY)
            scored.update(picture, found)
            self._matches[key] = _joined(scored.matches())
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


def _joined(classes: Sequence[ClassMatches]) -> ClassMatches:
    """All classes as one."""
    return ClassMatches(
        np.concatenate([one.scores for one in classes]),
        np.concatenate([one.hit for one in classes], axis=1),
        np.concatenate([one.ignored for one in classes], axis=1),
        sum(one.boxes for one in classes),
    )


def weighted_ap(pictures: Sequence[ClassMatches], drawn: NDArray[np.float64]) -> NDArray[np.float64]:
    """AP with weighted pictures: the area under precision's envelope, mean over the IoU thresholds.

    ``drawn`` [B,pictures] are B times the weights; returns [B].
    """
    boxes = drawn @ np.array([one.boxes for one in pictures], np.float64)
    everything = _joined(pictures)
    order = np.argsort(-everything.scores, kind="stable")
    of_picture = np.repeat(np.arange(len(pictures)), [len(one.scores) for one in pictures])[order]
    hit, counts = everything.hit[:, order], ~everything.ignored[:, order]  # [10,D]
    areas = []
    for weight in drawn[:, of_picture]:
        gained = weight * (hit & counts)
        precision = np.cumsum(gained, axis=1) / np.maximum(np.cumsum(weight * counts, axis=1), 1e-12)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        areas.append((envelope * gained).sum(axis=1).mean())
    return np.asarray(np.array(areas) / np.maximum(boxes, 1e-12), np.float64)
