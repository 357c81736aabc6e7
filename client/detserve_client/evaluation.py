"""The average precision of a served detector on annotated pictures."""

from __future__ import annotations

from contextlib import closing
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING

from detserve_client.results.outcomes import of_several
from detserve_core.datasets import open_dataset
from detserve_core.datasets.average_precision import MAX_DETECTIONS, AccuracyTable, AveragePrecision

if TYPE_CHECKING:
    from detserve_client.client import Client

_LEAST_SCORE = 0.001  # average precision wants the whole curve


def evaluated(
    client: Client, annotations: Path, pictures: Path | str | None, iou_threshold: float | None
) -> AccuracyTable:
    """Score every annotated picture; see :meth:`detserve_client.Client.evaluate`."""
    labels = client.card().labels
    dataset = open_dataset(annotations, None if pictures is None else Path(pictures), labels)
    scores = AveragePrecision(labels, dataset.labels)
    sent, truths = tee(dataset.read())
    outcomes = client.detect_stream(
        (truth.path for truth in sent),
        score_threshold=_LEAST_SCORE,
        iou_threshold=iou_threshold,
        max_detections=MAX_DETECTIONS,
    )
    with closing(outcomes):
        for truth, outcome in zip(truths, outcomes, strict=True):
            scores.update(truth, of_several(outcome))
    table, _ = scores.result()
    return table
