"""AP of an opened detector in this process, through the step functions that are served."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from detserve_builder.errors import BuildError
from detserve_builder.quantise.calibration import Progress, calibration_folder, network_input
from detserve_builder.steps.detserve_detector import OUTPUTS
from detserve_core.card import Card
from detserve_core.datasets import Dataset, open_dataset
from detserve_core.datasets.average_precision import (
    MAX_DETECTIONS,
    AveragePrecision,
    classes_by_name,
)
from detserve_core.datasets.dataset import plain_boxes
from detserve_core.detections import Detections

if TYPE_CHECKING:
    from detserve_builder.steps.detserve_detector import Session

_LEAST_SCORE = 0.001


@dataclass(frozen=True)
class Truth:
    """Pictures with what is to be found in them; where not ``labelled``, what the float detector found."""

    dataset: Dataset
    labelled: bool

    @property
    def figure(self) -> str:
        """What the figure measured on it is called."""
        return "AP" if self.labelled else "agreement with fp32"


def labelled_dataset(labels: Path, folder: Path, card: Card) -> Truth:
    """Any dataset that :func:`open_dataset` reads, pictures in ``folder``.

    Raises :class:`DatasetError` where it cannot be read, or has no class of the card's.
    """
    dataset = open_dataset(labels, folder, card.labels)
    classes_by_name(card.labels, dataset.labels)
    return Truth(dataset, labelled=True)


def agreement_dataset(folder: Path, floats: Session, card: Card) -> Truth:
    """The pictures of ``folder`` with what the float detector finds above the card's score as truth."""
    source = calibration_folder(folder, card, forced=True, option="--images")
    pictures = []
    for path in source.pictures:
        found = _boxes_with_area(detections(floats, card, path).above(card.thresholds.score))
        boxes_xywh = np.concatenate([found.boxes[:, :2], found.boxes[:, 2:] - found.boxes[:, :2]], 1)
        pictures.append(plain_boxes(path, boxes_xywh.tolist(), found.classes.tolist()))
    if not any(len(picture.classes) for picture in pictures):
        raise BuildError(f"{folder}: the float detector finds nothing in these pictures; name others")
    dataset = Dataset(folder, "agreement", tuple(card.labels), len(pictures), lambda: iter(pictures))
    return Truth(dataset, labelled=False)


def average_precision(
    session: Session, card: Card, truth: Truth, progress: Progress = lambda done, total: None
) -> float:
    """COCO's AP (IoU .50 to .95) of ``session`` against ``truth``, in 0..1.

    Raises :class:`BuildError` for a picture that cannot be decoded, and where no box is of a class that the
    card knows.
    """
    dataset = truth.dataset
    scored = AveragePrecision(card.labels, dataset.labels)
    for done, picture in enumerate(dataset.read(), 1):
        found = detections(session, card, picture.path)
        scored.update(picture, found if truth.labelled else _boxes_with_area(found))
        progress(done, dataset.pictures)
    ap = scored.result()[0].ap
    if ap is None:
        raise BuildError(
            f"{dataset.path} has no box of a class that the card knows ({', '.join(card.labels[:3])}, …), so "
            "there is no AP to measure; name labels of what the detector finds"
        )
    return ap


def detections(session: Session, card: Card, path: Path) -> Detections:
    """What ``session`` finds in a picture at the least score; a row without a box or a score is left out."""
    from detserve_builder.steps.detserve_postprocess import postprocess

    try:
        image, geometry = network_input(path.read_bytes(), card)
    except (OSError, ValueError) as error:
        raise BuildError(f"{path}: the evaluation picture cannot be used ({error})") from None
    boxes, scores, classes = session.run(OUTPUTS, {"images": image[None]})
    rows = min(MAX_DETECTIONS, card.thresholds.max_detections)
    num, boxes, scores, classes = postprocess(
        boxes[0],
        scores[0],
        classes[0],
        geometry,
        score_threshold=_LEAST_SCORE,
        iou_threshold=card.thresholds.iou,
        max_detections=rows,
        rows=rows,
    )
    boxes, scores, classes = boxes[: num[0]], scores[: num[0]], classes[: num[0]]
    kept = (boxes[:, 2:] >= boxes[:, :2]).all(1) & (classes >= 0) & (classes < len(card.labels))
    return Detections(boxes[kept], np.clip(scores[kept], 0, 1), classes[kept], tuple(card.labels))


def _boxes_with_area(found: Detections) -> Detections:
    """As truth, an empty box could not be found again."""
    return found[np.flatnonzero((found.boxes[:, 2:] > found.boxes[:, :2]).all(1))]
