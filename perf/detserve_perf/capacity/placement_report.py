"""Placements as a table, with what to take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import median

from detserve_perf.capacity.placement import ChoiceRun, Placement, PlacementSettings, recommend
from detserve_perf.report.tables import Cell, Column, Report, Table
from detserve_perf.speed.sweep import spread

_COLUMNS = (
    Column("placement", "placement"),
    Column("instances", "instances"),
    Column("picture", "picture"),
    Column("transport", "transport"),
    Column("pictures/s", "pictures_per_s", 1),
    Column("spread %", "spread_percent", 1),
    Column("p50 ms", "p50_ms", 1),
    Column("p99 ms", "p99_ms", 1),
    Column("CPU ms", "server_cpu_ms", 1),
)


def placement_report(result: Placement, settings: PlacementSettings) -> Report:
    """Medians over the rounds, the fastest first; the recommendation leads the facts and the notes."""
    machine = result.machine
    table = choices_table(result.runs)
    keys = [column.key for column in table.columns]
    sentences = recommend(result.runs, result.built, result.jpeg_encode_ms)
    return Report(
        name="placement",
        title=f"Ways to serve {result.model}",
        tables=[table],
        facts=[
            *(("recommended", sentence) for sentence in sentences),
            (
                "load",
                f"{settings.concurrency} requests under way, {result.pictures} distinct pictures, "
                f"{settings.requests} requests a round, {settings.repeats} rounds",
            ),
            ("instances", "one runs within the server's process where that is possible; more have one each"),
            ("CPU ms", "of all the server's processes for one picture"),
            ("machine", f"{machine.cpu}, {machine.cores} cores, Triton {machine.triton}"),
            ("date", machine.date),
            ("command", f"`{machine.command}`"),
        ],
        notes=[*sentences, *result.notes],
        data={
            **asdict(result),
            "settings": asdict(settings),
            "recommended": sentences,
            "table": [dict(zip(keys, row, strict=True)) for row in table.rows],
        },
    )


def choices_table(runs: Sequence[ChoiceRun]) -> Table:
    """One row a choice, the fastest first."""
    rows: list[list[Cell]] = []
    for choice in dict.fromkeys(run.choice for run in runs):
        own = [run for run in runs if run.choice == choice]
        speeds = [run.pictures_per_s for run in own]
        rows.append(
            [
                choice.placement,
                choice.instances,
                choice.picture,
                choice.transport,
                median(speeds),
                100 * spread(speeds) if len(speeds) > 1 else None,
                *(
                    median(getattr(run, field) for run in own)
                    for field in ("p50_ms", "p99_ms", "server_cpu_ms")
                ),
            ]
        )
    rows.sort(key=lambda row: -float(row[4] or 0))
    return Table("Throughput and latency", _COLUMNS, rows)
