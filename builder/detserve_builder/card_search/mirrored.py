"""A setting is judged without labels: a detector that sees what it knows finds the same in the mirror."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from detserve_builder.card_search.judge import IMPOSSIBLE, OnPicture, weights
from detserve_builder.card_search.networks import Networks
from detserve_builder.card_search.settings import Setting
from detserve_builder.errors import BuildError
from detserve_builder.quantise.calibration import calibration_folder
from detserve_builder.steps.detserve_detector import OUTPUTS
from detserve_core.card import Card

if TYPE_CHECKING:
    from detserve_builder.steps.detserve_detector import Session

_LEAST_SCORE = 0.25
_SAME_IOU = 0.5
Rows = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]


@dataclass
class Mirrored:
    """Judges by the score mass that a picture and its mirror image agree on, less what only one of them has.

    In a picture the agreed mass is the sum over pairs of boxes of one class with an IoU of .5 and more of the
    lower score times the IoU. What has no partner counts with half its score, as it is in one of two.
    """

    networks: Networks
    paths: Sequence[Path]
    on_picture: OnPicture
    figure: str = "agreement"
    worthless: float = 0.05
    _values: dict[tuple[Setting, int], float] = field(default_factory=dict)

    @property
    def pictures(self) -> Sequence[int]:
        """As :class:`~detserve_builder.card_search.judge.Judge` says, and so below."""
        return range(len(self.paths))

    def score(self, setting: Setting, pictures: Sequence[int], *, of_any_class: bool = False) -> float:
        """Mean over the pictures."""
        if self.networks.opened(setting) is None:
            return IMPOSSIBLE
        return float(np.mean([self._value(setting, index) for index in pictures]))

    def resampled(self, setting: Setting) -> NDArray[np.float64]:
        """The same, with the pictures' weights."""
        values = np.array([self._value(setting, index) for index in self.pictures])
        return np.asarray(weights(len(values)) @ values / len(values))

    def reported(self, setting: Setting) -> str:
        """The mean itself."""
        return f"{self.figure} {self.score(setting, self.pictures):.4f}"

    def _value(self, setting: Setting, index: int) -> float:
        if (setting, index) not in self._values:
            opened = self.networks.opened(setting)
            assert opened is not None  # noqa: S101 - score has said so
            self._values[setting, index] = agreed_mass(*seen_twice(*opened, self.paths[index]))
            self.on_picture()
        return self._values[setting, index]


def mirrored(networks: Networks, folder: Path, most: int, on_picture: OnPicture) -> Mirrored:
    """A judge by ``most`` of the folder's pictures at most, spread over them all."""
    paths = calibration_folder(folder, networks.card, forced=True, option="--images").pictures
    step = max(1, -(-len(paths) // most))
    return Mirrored(networks, paths[::step], on_picture)


def seen_twice(session: Session, card: Card, path: Path) -> tuple[Rows, Rows]:
    """What is found in a picture, and in its mirror image, turned back."""
    from detserve_builder.steps.detserve_preprocess import decode, fit

    try:
        picture = decode(path.read_bytes(), max_picture_pixels=card.max_picture_pixels)
    except (OSError, ValueError) as error:
        raise BuildError(f"{path}: the picture cannot be used ({error})") from None
    found = []
    for seen in (picture, np.ascontiguousarray(picture[:, ::-1])):
        spec = card.preprocess
        image, geometry = fit(
            seen, input_wh=card.input_wh, resize=spec.resize.value, pad_value=spec.pad_value
        )
        found.append(_detected(session, card, image, geometry))
    boxes, scores, classes = found[1]
    back = boxes.copy()
    back[:, [0, 2]] = picture.shape[1] - boxes[:, [2, 0]]
    return found[0], (back, scores, classes)


def _detected(session: Session, card: Card, image: NDArray[np.uint8], geometry: NDArray[np.float32]) -> Rows:
    from detserve_builder.steps.detserve_postprocess import postprocess

    boxes, scores, classes = session.run(OUTPUTS, {"images": image[None]})
    num, boxes, scores, classes = postprocess(
        np.nan_to_num(boxes[0]),
        np.nan_to_num(scores[0]),
        classes[0],
        geometry,
        score_threshold=_LEAST_SCORE,
        iou_threshold=card.thresholds.iou,
        max_detections=100,
        rows=100,
    )
    return boxes[: num[0]], np.clip(scores[: num[0]], 0, 1), classes[: num[0]]


def agreed_mass(first: Rows, second: Rows) -> float:
    """What both have, less half of what one has alone; see :class:`Mirrored`."""
    (boxes, scores, classes), (other_boxes, other_scores, other_classes) = first, second
    ious = _ious(boxes, other_boxes) * (classes[:, None] == other_classes[None])
    agreed, alone = 0.0, float(scores.sum() + other_scores.sum())
    while ious.size and ious.max() >= _SAME_IOU:  # the best pair first
        row, column = np.unravel_index(ious.argmax(), ious.shape)
        agreed += float(min(scores[row], other_scores[column]) * ious[row, column])
        alone -= float(scores[row] + other_scores[column])
        ious[row], ious[:, column] = 0, 0
    return agreed - alone / 2


def _ious(boxes: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    areas, other_areas = (np.prod(np.clip(b[:, 2:] - b[:, :2], 0, None), axis=1) for b in (boxes, others))
    return np.asarray(shared / np.maximum(areas[:, None] + other_areas[None] - shared, 1e-9))
