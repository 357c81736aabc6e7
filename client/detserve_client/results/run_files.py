"""The result files of a run: JSON, and COCO results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from detserve_client.results.outcomes import Outcome
from detserve_core.machine.whole_files import write_whole
from detserve_core.text import json_text

if TYPE_CHECKING:
    from detserve_core.datasets.coco_ids import CocoIds


def write_json(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write a JSON list with one entry per picture: ``source`` and either ``detections`` or ``error``.

    Raises:
        OutputError: the file cannot be written.
    """
    entries = [
        {"source": str(outcome.source), "detections": outcome.detections.to_dicts()}
        if outcome.ok
        else {"source": str(outcome.source), "error": str(outcome.error)}
        for outcome in outcomes
    ]
    _write(path, entries)


def write_coco(path: Path, outcomes: Sequence[Outcome], ids: CocoIds | None = None) -> None:
    """Write a COCO results file; failed pictures have no rows.

    Ids are those of a data set, and rows of classes that it has not are left out. Without one, image ids are
    those of :func:`coco_image_ids`, and category ids are class indices.

    Raises:
        DatasetError: the data set has not such a picture, or none of the detector's classes.
        OutputError: the file cannot be written.
    """
    paths = [Path(str(outcome.source)) for outcome in outcomes]
    image_ids = coco_image_ids(paths) if ids is None else [ids.image_id(path) for path in paths]
    rows = []
    for image_id, outcome in zip(image_ids, outcomes, strict=True):
        if not outcome.ok:
            continue
        if ids is not None:
            ids.check_classes(outcome.detections.names)
        rows.extend(outcome.detections.to_coco(image_id, None if ids is None else ids.categories))
    _write(path, rows)


def coco_image_ids(paths: Sequence[Path]) -> list[int]:
    """An id for each picture: the number its name is, as in COCO, else the least number not taken, from 1."""
    numbers = [int(path.stem) if path.stem.isascii() and path.stem.isdigit() else None for path in paths]
    taken = {number for number in numbers if number is not None}
    ids: list[int] = []
    used: set[int] = set()
    running = 1
    for number in numbers:
        if number is None or number in used:
            while running in taken:
                running += 1
            number = running
            taken.add(number)
        used.add(number)
        ids.append(number)
    return ids


def _write(path: Path, content: object) -> None:
    write_whole(path, (json_text(content, indent=1) + "\n").encode())
