"""A sweep as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from detserve_perf.load.perf_analyzer_run import LoadPoint
from detserve_perf.report.tables import Cell, Column, Report, Table
from detserve_perf.speed.sweep import PointRun, Sweep, SweepSettings, spread

_SPEED = (
    Column("batch", "batch"),
    Column("concurrency", "concurrency"),
    Column("pictures/s", "pictures_per_s", 1),
    Column("spread %", "spread_percent", 1),
    Column("p50 ms", "p50_ms", 1),
    Column("p90 ms", "p90_ms", 1),
    Column("p99 ms", "p99_ms", 1),
    Column("served / in-process", "served_over_in_process"),
    Column("its spread %", "ratio_spread_percent", 1),
)
_STEPS = (
    Column("batch", "batch"),
    Column("concurrency", "concurrency"),
    Column("step", "step"),
    Column("queue ms", "queue_ms"),
    Column("compute input ms", "compute_input_ms"),
    Column("compute infer ms", "compute_infer_ms"),
    Column("compute output ms", "compute_output_ms"),
    Column("pictures per execution", "pictures_per_execution"),
)
_STEP_FIELDS = [column.key for column in _STEPS[3:]]


def sweep_report(result: Sweep, settings: SweepSettings) -> Report:
    """Medians over the repeats; the JSON holds every run."""
    machine = result.machine
    facts = [
        ("server", f"{result.url}, Triton {machine.triton}"),
        ("machine", f"{machine.cpu}, {machine.cores} cores"),
        ("in-process", f"ONNX Runtime {machine.onnxruntime}, OpenCV {machine.opencv}"),
        ("in-process reference", _reference_fact(result)),
        (
            "load",
            f"{result.pictures} distinct pictures, {settings.requests} requests a point, "
            f"{settings.repeats} repeats",
        ),
        ("date", machine.date),
        ("command", f"`{machine.command}`"),
    ]
    return Report(
        name="sweep",
        title=f"Speed of {result.model}",
        tables=[speed_table(result.runs), steps_table(result.runs, result.model)],
        facts=facts,
        notes=result.notes,
        data={**_figures(result), "settings": asdict(settings)},
    )


def speed_table(runs: Sequence[PointRun]) -> Table:
    """One row a point: medians over its runs, and how far the runs lie apart."""
    rows: list[list[Cell]] = []
    for point, own in _by_point(runs):
        throughputs = [run.load.pictures_per_s for run in own]
        ratios = [run.ratio for run in own if run.ratio is not None]
        rows.append(
            [
                point.batch,
                point.concurrency,
                median(throughputs),
                _spread_percent(throughputs),
                *(
                    median(getattr(run.load, field) for run in own)
                    for field in ("p50_ms", "p90_ms", "p99_ms")
                ),
                median(ratios) if ratios else None,
                _spread_percent(ratios),
            ]
        )
    return Table("Throughput and latency", _SPEED, rows)


def steps_table(runs: Sequence[PointRun], model: str) -> Table:
    """One row a point and step of ``model``: medians of the mean time per request."""
    rows: list[list[Cell]] = []
    for point, own in _by_point(runs):
        for position, step in enumerate(own[0].steps):
            figures = (median(getattr(run.steps[position], field) for run in own) for field in _STEP_FIELDS)
            rows.append([point.batch, point.concurrency, step.model.removeprefix(f"{model}_"), *figures])
    return Table("Time per request in each step", _STEPS, rows)


def _spread_percent(values: Sequence[float]) -> float | None:
    return 100 * spread(values) if len(values) > 1 else None


def _by_point(runs: Sequence[PointRun]) -> list[tuple[LoadPoint, list[PointRun]]]:
    points = dict.fromkeys(run.point for run in runs)
    return [(point, [run for run in runs if run.point == point]) for point in points]


def _reference_fact(result: Sweep) -> str:
    runs = [run.pictures_per_s for run in result.references]
    if not runs:
        return ""
    share = median(run.cores_share for run in result.references)
    return (
        f"{median(runs):.1f} pictures/s on {result.machine.cores} threads, {len(runs)} runs, "
        f"spread {100 * spread(runs):.1f} %, {share:.0%} of the cores' time"
    )


def _figures(result: Sweep) -> dict[str, Any]:
    speed = speed_table(result.runs)
    keys = [column.key for column in speed.columns]
    return {**asdict(result), "table": [dict(zip(keys, row, strict=True)) for row in speed.rows]}
