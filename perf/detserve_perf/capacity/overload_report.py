"""An overload measurement as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from detserve_perf.capacity.overload import OverloadRun
from detserve_perf.report.machine import Machine
from detserve_perf.report.tables import Cell, Column, Report, Table

_COLUMNS = (
    Column("load / capacity", "load"),
    Column("offered/s", "offered_per_s", 1),
    Column("answered/s", "goodput_per_s", 1),
    Column("answered / capacity", "goodput_over_peak"),
    Column("rejected %", "rejected_percent", 1),
    Column("rejected p50 ms", "rejected_p50_ms", 1),
    Column("rejected p99 ms", "rejected_p99_ms", 1),
    Column("accepted p50 ms", "accepted_p50_ms", 1),
    Column("accepted p99 ms", "accepted_p99_ms", 1),
    Column("cores that sent", "generator_cores"),
)


def overload_report(
    runs: Sequence[OverloadRun], url: str, model: str, duration_s: float, callers: int, machine: Machine
) -> Report:
    """One row a load; ``callers`` are those that the capacity was measured with."""
    table = Table("Under overload", _COLUMNS, [_row(run) for run in runs])
    facts = [
        ("server", f"{url}, Triton {machine.triton}"),
        ("machine", f"{machine.cpu}, {machine.cores} cores"),
        ("capacity", f"answers to {callers} callers that wait, before and after each load"),
        ("load", f"Poisson arrivals for {duration_s:g} s each, latency from when a request was due"),
        ("date", machine.date),
        ("command", f"`{machine.command}`"),
    ]
    keys = [column.key for column in _COLUMNS]
    data = {
        "model": model,
        "machine": asdict(machine),
        "table": [dict(zip(keys, row, strict=True)) for row in table.rows],
    }
    return Report("overload", f"{model} under overload", [table], facts, (), data)


def _row(run: OverloadRun) -> list[Cell]:
    accepted, rejected = (run.latencies_ms(refused=refused) for refused in (False, True))
    return [
        run.load,
        run.offered_per_s,
        run.goodput_per_s,
        run.goodput_per_s / run.peak_per_s,
        100 * len(rejected) / len(run.run.samples),
        percentile(rejected, 0.50),
        percentile(rejected, 0.99),
        percentile(accepted, 0.50),
        percentile(accepted, 0.99),
        run.generator_cores,
    ]


def percentile(ascending: Sequence[float], share: float) -> float | None:
    """The value that ``share`` of them do not exceed, None of none."""
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))] if ascending else None
