"""Every exported file, built and served: its detections are those of its exporter, or it is refused by name.

Run by ``make test-exporters``, which exports the files first; not collected by ``make test``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detserve_builder.build import build
from detserve_client import Client
from detserve_core.errors import DetserveError
from detserve_server.triton.embedded import RunningServer, embedded_server
from tests.exporters.table import Row, write_table

OUT = Path(os.environ.get("EXPORTERS", "out/exporters"))
FEWEST = 20  # rows, without which equality would say little
POINT_PX = 0.02  # a box of a few pixels may fall short of the IoU by less than this


@dataclass(frozen=True)
class Case:
    """A folder with one ONNX file and what its exporter finds with it (case.py)."""

    folder: Path

    @property
    def name(self) -> str:
        """How the detector is served."""
        return f"{self.folder.parent.name}_{self.folder.name}"

    @cached_property
    def expected(self) -> dict[str, Any]:
        """What the export script wrote."""
        return json.loads((self.folder / "expected.json").read_text())


CASES = [Case(path.parent) for path in sorted(OUT.glob("cases/*/*/expected.json"))]


@dataclass(frozen=True)
class Served:
    """The running server, and why the files that are not in it were refused."""

    server: RunningServer
    refusals: dict[str, Exception]


@pytest.fixture(scope="module")
def table() -> Iterator[list[Row]]:
    """Filled by the tests, written when all have run."""
    rows: list[Row] = []
    yield rows
    write_table(OUT / "table.md", rows)


@pytest.fixture(scope="module")
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The files of the chosen tests built into one repository, one server on it."""
    repository, refusals = tmp_path_factory.mktemp("exporters") / "repository", {}
    for case in [item.callspec.params["case"] for item in request.session.items]:
        said = case.folder / "said.json"
        try:
            build(
                str(case.folder / case.expected["onnx"]),
                name=case.name,
                repository=repository,
                card_path=said if said.exists() else None,
            )
        except Exception as error:  # a traceback is one case's failure, not that of all
            refusals[case.name] = error
    with embedded_server(repository, ready_timeout_s=900) as server:
        yield Served(server, refusals)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_detections_are_the_exporters(case: Case, served: Served, table: list[Row]) -> None:
    said = case.folder / "said.json"
    row = Row(case.folder.parent.name, case.expected, said=said.read_text() if said.exists() else "")
    table.append(row)
    refusal = served.refusals.get(case.name)
    if refusal is not None:
        row.sentence = str(refusal).replace(str(case.folder / case.expected["onnx"]), case.expected["onnx"])
        assert isinstance(refusal, DetserveError), f"no sentence but {refusal!r}"
        assert case.expected["refused"], f"refused: {refusal}"
        assert re.search(case.expected["refused"], row.sentence, re.IGNORECASE), row.sentence
        row.passed = True
        return
    assert not case.expected["refused"], "built, though it cannot be served"
    with Client(served.server.grpc_url, case.name) as client:
        lost = [
            f"{picture}: {line}"
            for picture, expected in case.expected["pictures"].items()
            for line in compare(case, case.folder / picture, expected, client, row)
        ]
    assert row.rows >= FEWEST, f"only {row.rows} rows can be compared"
    assert not lost, f"{len(lost)} rows have no counterpart, the first {lost[:3]}"
    row.passed = True


def compare(case: Case, picture: Path, expected: dict[str, Any], client: Client, row: Row) -> list[str]:
    """The rows of either side that the other lacks; the largest differences of the others go into ``row``."""
    threshold, iou_threshold = expected["score_threshold"], case.expected["iou_threshold"]
    options = {} if iou_threshold is None else {"iou_threshold": iou_threshold}
    found = client.detect(picture, score_threshold=threshold, **options)
    height, width = cv2.imread(str(picture)).shape[:2]
    once = case.expected["best_class"]
    theirs = visible(np.array(expected["rows"]), (width, height), once)
    ours = visible(np.column_stack([found.boxes, found.scores, found.classes]), (width, height), once)
    alike = Alike(**case.expected["alike"])
    row.rows += int((theirs[:, 4] > threshold + alike.score).sum())
    lost = []
    for name, rows, others in (("expected", theirs, ours), ("served", ours, theirs)):
        for one in rows[rows[:, 4] > threshold + alike.score]:
            twin = nearest(one, others)
            if twin is None or not alike(one, twin):
                lost.append(
                    f"{name} {one.round(4).tolist()}, nearest {twin if twin is None else twin.round(4)}"
                )
                continue
            row.box_px = max(row.box_px, float(np.abs(one[:4] - twin[:4]).max()))
            row.score = max(row.score, float(abs(one[4] - twin[4])))
    return lost


@dataclass(frozen=True)
class Alike:
    """Whether two rows are one detection: scores ``score`` apart at most, boxes that overlap by ``iou``."""

    score: float
    iou: float

    def __call__(self, one: np.ndarray, other: np.ndarray) -> bool:
        """Rows of x1, y1, x2, y2, score, class."""
        point = np.abs(one[:4] - other[:4]).max() <= POINT_PX
        return bool(abs(one[4] - other[4]) <= self.score and (point or overlap(one, other) >= self.iou))


def visible(rows: np.ndarray, wh: tuple[int, int], once: bool) -> np.ndarray:
    """Rows clipped to the picture, as detserve serves them, without those of which nothing is left.

    ``once`` keeps the best of the rows that have the same box.
    """
    rows = rows.reshape(-1, 6).copy()
    rows[:, :4] = np.clip(rows[:, :4], 0, [*wh, *wh])
    rows = rows[(rows[:, 2:4] - rows[:, :2]).min(axis=1) > POINT_PX]
    if once:
        rows = rows[np.sort(np.unique(rows[:, :4].round(1), axis=0, return_index=True)[1])]
    return rows


def nearest(one: np.ndarray, others: np.ndarray) -> np.ndarray | None:
    """The row of the same class whose box and score are nearest; 0.001 of a score counts as a pixel."""
    others = others[others[:, 5] == one[5]]
    if not len(others):
        return None
    away = np.abs(others[:, :4] - one[:4]).max(axis=1) + np.abs(others[:, 4] - one[4]) * 1000
    return others[away.argmin()]


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes that are not empty."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:4], b[2:4])
    shared = np.prod(np.clip(high - low, 0, None))
    return float(shared / (np.prod(a[2:4] - a[:2]) + np.prod(b[2:4] - b[:2]) - shared))
