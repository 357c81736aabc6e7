"""The accuracy of a served detector: annotated pictures through the server, scored as COCO does."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from detserve_client.client import Client
from detserve_core.datasets import AnnotatedPicture, Dataset, open_dataset
from detserve_core.datasets.average_precision import (
    MAX_DETECTIONS,
    AccuracyTable,
    AveragePrecision,
    PrecisionRecall,
    classes_by_name,
)
from detserve_core.detections import Detections
from detserve_core.endpoint import Endpoint
from detserve_core.text import name_key
from detserve_perf.accuracy.differences import Differences
from detserve_perf.errors import MeasurementError
from detserve_perf.report.machine import Machine, this_machine
from detserve_perf.server.access import client_of, endpoint_of
from detserve_perf.server.triton import TritonQueries

SCORE_THRESHOLD = 0.001  # AP wants the whole precision-recall curve
_NAMED = 5


@dataclass(frozen=True)
class ServedModel:
    """One ensemble of one server."""

    url: str
    model: str


@dataclass(frozen=True)
class ModelAccuracy:
    """The figures of one ensemble, called ``name``; two of one name have their servers in theirs.

    ``iou_threshold`` is NMS's; from ``shown_score`` on the card shows a box.
    """

    name: str
    served: ServedModel
    iou_threshold: float
    shown_score: float
    table: AccuracyTable
    curves: PrecisionRecall
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Accuracy:
    """What was measured, and with what. ``models`` is the model and, where there is one, the other."""

    models: tuple[ModelAccuracy, ...]
    differences: Differences | None
    dataset: Dataset
    concurrency: int
    machine: Machine


def measure_accuracy(
    served: ServedModel,
    dataset: Path,
    images: Path | None,
    *,
    iou_threshold: float | None,
    concurrency: int,
    against: ServedModel | None = None,
    worst: int = 0,
    access: Callable[[str], Endpoint] = endpoint_of,
    on_pictures: Callable[[int], None],
    on_picture: Callable[[], None],
) -> Accuracy:
    """Send every annotated picture to the server and score what comes back; see :func:`score_dataset`.

    ``iou_threshold`` None is the card's. ``against`` is another ensemble to compare with; the answers to the
    ``worst`` pictures are kept. ``on_pictures`` is told how many pictures there are, ``on_picture`` is called
    after each. ``access`` says what the server of a URL is shown.

    Raises :class:`DatasetError`: a wrong dataset, labels that match none of its classes. Raises
    :class:`MeasurementError`: a picture that failed. Raises an
    :class:`~detserve_core.errors.InferenceError` when the server does not answer.
    """
    with ExitStack() as stack:
        served_by = [(access(one.url), one.model) for one in (served, against) if one]
        clients = [stack.enter_context(client_of(*each)) for each in served_by]
        labels = [client.card().labels for client in clients]
        with TritonQueries(served_by[0][0]) as queries:
            triton = queries.version()
        opened = open_dataset(dataset, images, labels[0])
        on_pictures(opened.pictures)
        models, differences = score_dataset(
            clients,
            opened,
            iou_threshold=iou_threshold,
            concurrency=concurrency,
            worst=worst,
            on_picture=on_picture,
        )
    return Accuracy(models, differences, opened, concurrency, this_machine(triton=triton))


def score_dataset(
    clients: Sequence[Client],
    dataset: Dataset,
    *,
    iou_threshold: float | None,
    concurrency: int,
    worst: int,
    on_picture: Callable[[], None],
) -> tuple[tuple[ModelAccuracy, ...], Differences | None]:
    """Score one ensemble, or two and what differs between them.

    Pictures are read as they are sent, ``concurrency`` at a time. What stays of each are its boxes and, with
    two ensembles, one line of counts.

    Raises :class:`DatasetError`: labels that match no class of the dataset. Raises
    :class:`MeasurementError`: a picture that failed.
    """
    cards = [client.card() for client in clients]
    scores = [AveragePrecision(card.labels, dataset.labels) for card in cards]
    ious = [card.thresholds.iou if iou_threshold is None else iou_threshold for card in cards]
    differences = Differences(worst) if len(clients) > 1 else None
    streams = [
        _answers(client, dataset.read(), iou, concurrency) for client, iou in zip(clients, ious, strict=True)
    ]
    for answers in zip(*streams, strict=True):
        for score, (truth, found) in zip(scores, answers, strict=True):
            score.update(truth, found)
        if differences:
            shown = [
                found.above(card.thresholds.score) for card, (_, found) in zip(cards, answers, strict=True)
            ]
            differences.update(answers[0][0].path, *shown)
        on_picture()
    alike = len({client.model for client in clients}) < len(clients)
    models = tuple(
        ModelAccuracy(
            f"{client.model} at {client.endpoint}" if alike else client.model,
            ServedModel(str(client.endpoint), client.model),
            iou,
            card.thresholds.score,
            *score.result(),
            notes=(
                *label_notes(card.labels, dataset.labels),
                *_limit_note(card.thresholds.max_detections),
            ),
        )
        for client, card, iou, score in zip(clients, cards, ious, scores, strict=True)
    )
    return models, differences


def _answers(
    client: Client, truths: Iterator[AnnotatedPicture], iou_threshold: float, concurrency: int
) -> Iterator[tuple[AnnotatedPicture, Detections]]:
    truths, under_way = itertools.tee(truths)
    outcomes = client.detect_stream(
        (truth.path for truth in truths),
        window=concurrency,
        score_threshold=SCORE_THRESHOLD,
        iou_threshold=iou_threshold,
        max_detections=MAX_DETECTIONS,
    )
    for outcome, truth in zip(outcomes, under_way, strict=True):
        if not outcome.ok:
            raise MeasurementError(f"{truth.path} failed, so nothing was scored: {outcome.error}")
        yield truth, outcome.detections


def label_notes(labels: Sequence[str], dataset_labels: Sequence[str]) -> list[str]:
    """What the names on both sides do not share."""
    class_of = classes_by_name(labels, dataset_labels)
    unknown = [label for index, label in enumerate(labels) if index not in class_of]
    scored = {name_key(labels[index]) for index in class_of}
    unscored = [label for label in dataset_labels if name_key(label) not in scored]
    notes = []
    if unknown:
        notes.append(f"labels of the card that the dataset does not have, ignored: {_named(unknown)}")
    if unscored:
        notes.append(f"classes that the card does not know, not scored: {_named(unscored)}")
    return notes


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
