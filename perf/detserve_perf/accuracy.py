"""The accuracy of a served detector: annotated pictures through the server, scored as COCO does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from detserve_client.client import DetectionClient
from detserve_client.detections import Detections
from detserve_perf.coco import (
    MAX_DETECTIONS,
    AccuracyTable,
    Annotations,
    Result,
    categories_by_class,
    load_annotations,
    score,
)
from detserve_perf.errors import MeasurementError
from detserve_perf.machine import Machine, this_machine
from detserve_perf.tables import Cell, Column, Report, Table
from detserve_perf.triton import TritonQueries

SCORE_THRESHOLD = 0.001  # AP wants the whole precision-recall curve
_NAMED = 5

_OVERALL = (
    Column("AP", "ap", 3),
    Column("AP50", "ap50", 3),
    Column("AP75", "ap75", 3),
    Column("AP small", "ap_small", 3),
    Column("AP medium", "ap_medium", 3),
    Column("AP large", "ap_large", 3),
    Column("pictures", "pictures"),
    Column("boxes", "boxes"),
    Column("detections", "detections"),
)
_BY_CLASS = (
    Column("class", "class"),
    Column("boxes", "boxes"),
    Column("AP", "ap", 3),
    Column("AP50", "ap50", 3),
)


@dataclass(frozen=True)
class Accuracy:
    """What was measured, and with what. ``iou_threshold`` is NMS's."""

    model: str
    url: str
    annotations: str
    score_threshold: float
    iou_threshold: float
    table: AccuracyTable
    machine: Machine
    notes: tuple[str, ...]


def measure_accuracy(
    url: str,
    model: str,
    annotations_file: Path,
    images: Path,
    *,
    iou_threshold: float | None,
    concurrency: int,
    on_pictures: Callable[[int], None],
    on_picture: Callable[[], None],
) -> Accuracy:
    """Send every annotated picture to the server and score what comes back; only the results are kept.

    ``iou_threshold`` None is the card's. ``on_pictures`` is told how many there are, ``on_picture`` is called
    after each.

    Raises :class:`MeasurementError`: wrong annotations, an absent picture, labels that match no category, a
    picture that failed. Raises an :class:`~detserve_client.errors.InferenceError` when the server does not
    answer.
    """
    annotations = load_annotations(annotations_file)
    pictures = pictures_of(annotations, images)
    with DetectionClient(url, model) as client, TritonQueries(client.endpoint) as queries:
        card = client.card()
        triton = queries.version()
        category_by_class = categories_by_class(card.labels, annotations)
        iou_threshold = card.thresholds.iou if iou_threshold is None else iou_threshold
        on_pictures(len(pictures))
        outcomes = client.detect_many(
            pictures.values(),
            window=concurrency,
            score_threshold=SCORE_THRESHOLD,
            iou_threshold=iou_threshold,
            max_detections=MAX_DETECTIONS,
        )
        results: list[Result] = []
        for (image_id, path), outcome in zip(pictures.items(), outcomes, strict=True):
            if outcome.detections is None:
                raise MeasurementError(f"{path} failed, so nothing was scored: {outcome.error}")
            results += coco_results(image_id, outcome.detections, category_by_class)
            on_picture()
    limit = card.thresholds.max_detections
    return Accuracy(
        model=model,
        url=url,
        annotations=str(annotations_file),
        score_threshold=SCORE_THRESHOLD,
        iou_threshold=iou_threshold,
        table=score(annotations, results, category_by_class.values()),
        machine=this_machine(triton=triton),
        notes=(*label_notes(card.labels, annotations, category_by_class), *_limit_note(limit)),
    )


def pictures_of(annotations: Annotations, images: Path) -> dict[int, Path]:
    """Image id -> file; raises :class:`MeasurementError` when a file is absent."""
    pictures = {image["id"]: images / image["file_name"] for image in annotations["images"]}
    absent = [path for path in pictures.values() if not path.is_file()]
    if absent:
        raise MeasurementError(
            f"{len(absent)} of {len(pictures)} annotated pictures are not in {images}, "
            f"{absent[0].name} for one; give the annotations' own folder as --images"
        )
    return pictures


def coco_results(image_id: int, detections: Detections, category_by_class: Mapping[int, int]) -> list[Result]:
    """Detections as entries of COCO's results format; classes without a category are left out."""
    corners = detections.boxes.astype(np.float64)
    xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
    rows = zip(detections.classes.tolist(), xywh, detections.scores.tolist(), strict=True)
    return [
        {"image_id": image_id, "category_id": category_by_class[index], "bbox": box, "score": confidence}
        for index, box, confidence in rows
        if index in category_by_class
    ]


def label_notes(
    labels: Sequence[str], annotations: Annotations, category_by_class: Mapping[int, int]
) -> list[str]:
    """What the names on both sides do not share."""
    unknown = [label for index, label in enumerate(labels) if index not in category_by_class]
    covered = set(category_by_class.values())
    unscored = [str(c["name"]) for c in annotations["categories"] if c["id"] not in covered]
    notes = []
    if unknown:
        notes.append(f"labels of the card without a category, ignored: {_named(unknown)}")
    if unscored:
        notes.append(f"categories that the card does not know, not scored: {_named(unscored)}")
    return notes


def accuracy_report(result: Accuracy) -> Report:
    """An accuracy as tables."""
    table, machine = result.table, result.machine
    overall: list[Cell] = [getattr(table, column.key) for column in _OVERALL]
    classes: list[list[Cell]] = [[one.name, one.boxes, one.ap, one.ap50] for one in table.classes]
    return Report(
        name="accuracy",
        title=f"Accuracy of {result.model}",
        tables=[Table("COCO average precision", _OVERALL, [overall]), Table("By class", _BY_CLASS, classes)],
        facts=[
            ("server", f"{result.url}, Triton {machine.triton}"),
            ("annotations", result.annotations),
            ("thresholds", f"score {result.score_threshold:g}, NMS IoU {result.iou_threshold:g}"),
            ("machine", f"{machine.cpu}, {machine.cores} cores"),
            ("date", machine.date),
            ("command", f"`{machine.command}`"),
        ],
        notes=result.notes,
        data=asdict(result),
    )


def _limit_note(max_detections: int) -> list[str]:
    if max_detections >= MAX_DETECTIONS:
        return []
    return [
        f"the model returns at most {max_detections} detections a picture; "
        f"COCO's AP looks at {MAX_DETECTIONS}"
    ]


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
