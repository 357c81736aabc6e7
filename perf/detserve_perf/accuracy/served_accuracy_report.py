"""An accuracy as tables, JSON, curves and pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from detserve_core.datasets.average_precision import AccuracyTable, GroupAccuracy
from detserve_core.text import name_key
from detserve_perf.accuracy.curves import precision_recall_png
from detserve_perf.accuracy.differences import MATCH_IOU, MOVED_BELOW_IOU, Counts, Differences, WorstCase
from detserve_perf.accuracy.served_accuracy import SCORE_THRESHOLD, Accuracy, ModelAccuracy
from detserve_perf.accuracy.worst_cases import side_by_side_jpeg
from detserve_perf.report.tables import Cell, Column, Figure, Report, Table

_OVERALL = (
    Column("model", "model"),
    Column("AP", "ap", 3),
    Column("AP50", "ap50", 3),
    Column("AP75", "ap75", 3),
    Column("pictures", "pictures"),
    Column("boxes", "boxes"),
    Column("detections", "detections"),
)
_GROUP = (
    Column("boxes", "boxes"),
    Column("AP", "ap", 3),
    Column("AP50", "ap50", 3),
    Column("AP75", "ap75", 3),
)
_COUNTS = (
    Column("matched", "matched"),
    Column("moved", "moved"),
    Column("missed", "missed"),
    Column("extra", "extra"),
    Column("mean IoU", "mean_iou", 3),
    Column("score change", "mean_score_change", 3),
)


def accuracy_report(result: Accuracy) -> Report:
    """Everything a measurement found; figures are drawn when the report is written."""
    model, *others = result.models
    other = others[0] if others else None
    sizes = _groups("By size", "size", model.table.sizes, other, other.table.sizes if other else ())
    classes = _groups("By class", "class", model.table.classes, other, other.table.classes if other else ())
    tables = [Table("COCO average precision", _OVERALL, [_overall(m) for m in result.models]), sizes, classes]
    figures = [_curves(one, number) for number, one in enumerate(result.models, 1) if one.table.boxes]
    if result.differences and other:
        tables += _difference_tables(result.differences, other.name)
        figures += [
            _worst_figure(case, n, model.name, other.name)
            for n, case in enumerate(result.differences.worst(), 1)
        ]
    return Report(
        name="accuracy",
        title=f"Accuracy of {model.name}" + (f" against {other.name}" if other else ""),
        tables=tables,
        facts=_facts(result),
        notes=_notes(result),
        data=_data(result, other),
        figures=figures,
    )


def _overall(one: ModelAccuracy) -> list[Cell]:
    table = one.table
    return [
        one.name,
        table.ap,
        table.ap50,
        table.ap75,
        table.pictures,
        table.boxes,
        table.detections,
    ]


def _groups(
    title: str,
    kind: str,
    groups: Sequence[GroupAccuracy],
    other: ModelAccuracy | None,
    other_groups: Sequence[GroupAccuracy],
) -> Table:
    columns = [Column(kind, kind), *_GROUP]
    rows: list[list[Cell]] = [[one.name, one.boxes, one.ap, one.ap50, one.ap75] for one in groups]
    if other:
        columns.append(Column(f"AP of {other.name}", "ap_other", 3))
        aps = {name_key(one.name): one.ap for one in other_groups}
        rows = [[*row, aps.get(name_key(str(row[0])))] for row in rows]
    return Table(title, columns, rows)


def _difference_tables(differences: Differences, other: str) -> list[Table]:
    worst = [case.counts for case in differences.worst()]
    classes = Table(
        f"Differences from {other}, by class",
        (Column("class", "class"), *_COUNTS),
        [_counted(counts) for counts in differences.by_class()],
    )
    pictures = Table(
        f"Pictures that differ most from {other}",
        (Column("picture", "picture"), *_COUNTS, Column("differ by", "disagreement")),
        [[*_counted(counts), counts.disagreement] for counts in worst],
    )
    return [classes, pictures] if worst else [classes]


def _counted(counts: Counts) -> list[Cell]:
    means = [counts.mean_iou, counts.mean_score_change]
    return [counts.name, counts.matched, counts.moved, counts.missed, counts.extra, *means]


def _curves(one: ModelAccuracy, number: int) -> Figure:
    return Figure(
        f"Precision and recall of {one.name}",
        "accuracy_curves.png" if number == 1 else f"accuracy_curves_{number}.png",
        partial(precision_recall_png, one.curves, f"Precision and recall of {one.name}"),
    )


def _worst_figure(case: WorstCase, number: int, model: str, other: str) -> Figure:
    return Figure(
        f"{case.path.name}: {other} to the left, {model} to the right",
        _worst_file(case, number),
        partial(side_by_side_jpeg, case, model, other),
    )


def _worst_file(case: WorstCase, number: int) -> str:
    return f"worst/{number:02}_{re.sub(r'[^A-Za-z0-9._-]', '_', case.path.stem)}.jpg"


def _facts(result: Accuracy) -> list[tuple[str, str]]:
    machine, dataset = result.machine, result.dataset
    return [
        ("server", f"{result.models[0].served.url}, Triton {machine.triton}"),
        ("compared with", ", ".join(f"{one.served.model} of {one.served.url}" for one in result.models[1:])),
        ("dataset", f"{dataset.path}, {dataset.format}"),
        ("thresholds", f"score {SCORE_THRESHOLD:g}, {_nms(result.models)}"),
        ("requests in flight", str(result.concurrency)),
        ("machine", f"{machine.cpu}, {machine.cores} cores"),
        ("date", machine.date),
        ("command", f"`{machine.command}`"),
    ]


def _nms(models: Sequence[ModelAccuracy]) -> str:
    return "NMS IoU " + " and ".join(dict.fromkeys(f"{one.iou_threshold:g}" for one in models))


def _notes(result: Accuracy) -> list[str]:
    several = len(result.models) > 1
    notes = list(result.dataset.notes)
    for one in result.models:
        notes += [f"{one.name}: {note}" if several else note for note in one.notes]
    if several:
        shown = " and ".join(f"{one.shown_score:g}" for one in result.models)
        notes.append(
            f"differences are between boxes of scores from {shown}, the cards' thresholds; matched: same "
            f"class and IoU of {MATCH_IOU} or more; moved: matched below IoU {MOVED_BELOW_IOU}; missed: only "
            f"{result.models[1].name} has it; extra: only {result.models[0].name} has it"
        )
    return notes


def _data(result: Accuracy, other: ModelAccuracy | None) -> dict[str, Any]:
    data = {
        **_model_data(result.models[0]),
        "dataset": {
            "path": str(result.dataset.path),
            "format": result.dataset.format,
            "pictures": result.dataset.pictures,
        },
        "score_threshold": SCORE_THRESHOLD,
        "concurrency": result.concurrency,
        "machine": asdict(result.machine),
        "notes": _notes(result),
    }
    if result.differences and other:
        data["against"] = _model_data(other)
        data["differences"] = {
            "match_iou": MATCH_IOU,
            "moved_below_iou": MOVED_BELOW_IOU,
            "classes": [asdict(counts) for counts in result.differences.by_class()],
            "pictures": [
                {**asdict(counts), "disagreement": counts.disagreement}
                for counts in result.differences.pictures
            ],
            "worst": [
                {"picture": str(case.path), "drawn": _worst_file(case, number)}
                for number, case in enumerate(result.differences.worst(), 1)
            ],
        }
    return data


def _model_data(one: ModelAccuracy) -> dict[str, Any]:
    table: AccuracyTable = one.table
    return {
        "model": one.served.model,
        "url": one.served.url,
        "iou_threshold": one.iou_threshold,
        "shown_score": one.shown_score,
        "table": asdict(table),
    }
