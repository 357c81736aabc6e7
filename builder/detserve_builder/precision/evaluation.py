"""AP of an opened detector in this process, through the step functions that are served."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from detserve_builder.errors import BuildError
from detserve_builder.precision.calibration import Progress, calibration_folder, network_input
from detserve_builder.steps.detserve_detector import OUTPUTS
from detserve_client.card import Card
from detserve_client.errors import MissingExtra

if TYPE_CHECKING:
    from detserve_builder.steps.detserve_detector import Session

_MAX_DETECTIONS = 100  # what COCO's AP looks at
_LEAST_SCORE = 0.001
Json = dict[str, Any]


@dataclass(frozen=True)
class Dataset:
    """Pictures with what is to be found in them.

    ``truth`` is COCO's instances; ``category_ids`` are by class index of the card, absent where the truth
    does not have the class. Where ``labelled`` is False the truth is what the float detector found.
    """

    pictures: dict[int, Path]
    truth: Json
    category_ids: dict[int, int]
    labelled: bool

    @property
    def figure(self) -> str:
        """What the figure measured on it is called."""
        return "AP" if self.labelled else "agreement with fp32"


def labelled_dataset(instances: Path, folder: Path, card: Card) -> Dataset:
    """COCO ``instances``, pictures in ``folder``; raises :class:`BuildError` where they do not fit."""
    truth = _read_instances(instances)
    ids = {category["name"].strip().casefold(): category["id"] for category in truth["categories"]}
    wanted = {index: ids[key] for index, label in enumerate(card.labels) if (key := label.casefold()) in ids}
    if not wanted:
        raise BuildError(
            f"{instances}: none of the card's labels ({', '.join(card.labels[:3])}, …) is a category of the "
            "annotations; both must use the same names"
        )
    pictures = {image["id"]: folder / Path(image["file_name"]).name for image in truth["images"]}
    absent = next((path for path in pictures.values() if not path.is_file()), None)
    if absent:
        raise BuildError(f"{absent} is absent, but {instances} names it; --images takes the pictures' folder")
    return Dataset(pictures, truth, wanted, labelled=True)


def agreement_dataset(folder: Path, floats: Session, card: Card) -> Dataset:
    """The pictures of ``folder`` with what the float detector finds above the card's score as truth."""
    source = calibration_folder(folder, card, forced=True, option="--images")
    pictures = dict(enumerate(source.pictures, 1))
    category_ids = {index: index + 1 for index in range(len(card.labels))}
    unlabelled = Dataset(pictures, {}, category_ids, labelled=False)
    found = [row for row in detections(floats, card, unlabelled) if row["score"] >= card.thresholds.score]
    if not found:
        raise BuildError(f"{folder}: the float detector finds nothing in these pictures; name others")
    truth = {
        "images": [{"id": image_id} for image_id in pictures],
        "categories": [{"id": index + 1, "name": label} for index, label in enumerate(card.labels)],
        "annotations": found,
    }
    return Dataset(pictures, truth, category_ids, labelled=False)


def average_precision(
    session: Session, card: Card, dataset: Dataset, progress: Progress = lambda done, total: None
) -> float:
    """COCO's AP (IoU .50 to .95) of ``session`` on ``dataset``, in 0..1."""
    try:
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise MissingExtra("pycocotools", "builder") from None

    found = list(detections(session, card, dataset, progress))
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(
            _indexed(dataset, dataset.truth["annotations"]), _indexed(dataset, found), "bbox"
        )
        evaluation.params.catIds = sorted(set(dataset.category_ids.values()))
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return max(float(evaluation.stats[0]), 0.0)


def detections(
    session: Session, card: Card, dataset: Dataset, progress: Progress = lambda done, total: None
) -> Iterator[Json]:
    """Rows of COCO's results format; raises :class:`BuildError` for a picture that cannot be decoded."""
    from detserve_builder.steps.detserve_postprocess import postprocess

    for done, (image_id, path) in enumerate(dataset.pictures.items(), 1):
        try:
            image, geometry = network_input(path.read_bytes(), card)
        except (OSError, ValueError) as error:
            raise BuildError(f"{path}: the evaluation picture cannot be used ({error})") from None
        boxes, scores, classes = session.run(OUTPUTS, {"images": image[None]})
        num, boxes, scores, classes = postprocess(
            np.nan_to_num(boxes[0]),
            np.nan_to_num(scores[0]),
            classes[0],
            geometry,
            score_threshold=_LEAST_SCORE,
            iou_threshold=card.thresholds.iou,
            max_detections=_MAX_DETECTIONS,
            rows=_MAX_DETECTIONS,
        )
        for row in range(int(num[0])):
            category_id = dataset.category_ids.get(int(classes[row]))
            found = _row(image_id, category_id, boxes[row].tolist(), float(scores[row]))
            if category_id is not None and (dataset.labelled or min(found["bbox"][2:]) > 0):
                yield found  # as truth, an empty box could not be found again
        progress(done, len(dataset.pictures))


def _row(image_id: int, category_id: int | None, box: list[float], score: float) -> Json:
    x1, y1, x2, y2 = box
    bbox = [x1, y1, x2 - x1, y2 - y1]
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score}


def _indexed(dataset: Dataset, boxes: list[Json]) -> Any:
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = {
        "images": dataset.truth["images"],
        "categories": dataset.truth["categories"],
        "annotations": [
            {"area": box["bbox"][2] * box["bbox"][3], "iscrowd": 0, **box, "id": number}
            for number, box in enumerate(boxes, 1)  # COCOeval takes id 0 for "no match"
        ],
    }
    coco.createIndex()
    return coco


def _read_instances(path: Path) -> Json:
    try:
        truth = json.loads(path.read_bytes())
    except OSError as error:
        raise BuildError(
            f"{path} cannot be read ({error.strerror}); expected a COCO instances.json"
        ) from None
    except ValueError:
        raise BuildError(f"{path} is no JSON; expected a COCO instances.json") from None
    expected = {
        "images": ("id", "file_name"),
        "annotations": ("image_id", "category_id", "bbox"),
        "categories": ("id", "name"),
    }
    for key, fields in expected.items():
        entries = truth.get(key) if isinstance(truth, dict) else None
        whole = isinstance(entries, list) and all(
            isinstance(e, dict) and set(fields) <= set(e) for e in entries
        )
        if not entries or not whole:
            raise BuildError(
                f"{path} has no list {key!r} with {', '.join(fields)}; expected a COCO instances.json"
            )
    return dict(truth)
