"""A plan as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from detserve_perf.capacity.plan import Answer, Checked, busy_note, verdict
from detserve_perf.capacity.service_curve import ServiceCurve
from detserve_perf.report.machine import Machine
from detserve_perf.report.tables import Cell, Column, Report, Table

_ANSWER = (
    Column("demand", "demand"),
    Column("pictures/s", "pictures_per_s", 1),
    Column("replicas", "replicas"),
    Column("each, pictures/s", "pictures_per_s_each", 1),
    Column("p50 ms", "p50_ms", 1),
    Column("p99 ms", "p99_ms", 1),
    Column("mean wait ms", "mean_wait_ms", 2),
    Column("network in, Mbit/s", "network_mbit_per_s", 1),
)
_CHECK = (
    Column("load %", "load_percent", 0),
    Column("pictures/s", "pictures_per_s", 1),
    Column("mean ms", "mean_ms", 1),
    Column("simulated", "simulated_mean_ms", 1),
    Column("off %", "mean_off_percent", 0),
    Column("p50 ms", "p50_ms", 1),
    Column("simulated", "simulated_p50_ms", 1),
    Column("off %", "p50_off_percent", 0),
    Column("p99 ms", "p99_ms", 1),
    Column("simulated", "simulated_p99_ms", 1),
    Column("off %", "p99_off_percent", 0),
    Column("failed", "failed"),
)
_CURVE = (
    Column("concurrency", "concurrency"),
    Column("pictures/s", "pictures_per_s", 1),
    Column("mean ms", "mean_ms", 1),
    Column("p50 ms", "p50_ms", 1),
    Column("p99 ms", "p99_ms", 1),
)
_MODEL = (
    "a replica is a queue whose requests share the machine at the measured speeds, simulated; no batches",
    "requests arrive at random and independently, and are shared out at random among the replicas: cameras "
    "that fire at the same moment need more, a balancer that knows the queues needs less",
    "every replica is a machine like the measured one, load generator included; one more covers a failure",
)


_CHECKED = "each load is simulated with the mean of the service curves measured before and after it"


def plan_report(
    curve: ServiceCurve,
    answers: Sequence[Answer],
    checks: Sequence[Checked],
    *,
    p99_ms: float,
    machine: Machine | None,
    source: str,
) -> Report:
    """What each demand takes, the check where one was made, and the curve it rests on."""
    answer_table = Table(f"Replicas for a p99 of {p99_ms:g} ms", _ANSWER, [_answer(one) for one in answers])
    curve_table = Table("Service curve", _CURVE, curve_rows(curve))
    check_table = Table("Measured and simulated", _CHECK, [_check(one) for one in checks])
    tables = [answer_table, *([check_table] if checks else []), curve_table]
    said = (
        [verdict(checks), _CHECKED, busy_note(checks)]
        if checks
        else ["not checked by measurement: see --check"]
    )
    notes = [*filter(None, said), *_MODEL]
    data: dict[str, Any] = {
        "p99_ms": p99_ms,
        "servers": curve.servers,
        "queue_size": curve.queue_size,
        "capacity_per_s": curve.capacity_per_s,
        "replicas": _as_objects(answer_table),
        "check": _as_objects(check_table),
        "curve": _as_objects(curve_table),
        "verdict": verdict(checks) if checks else None,
        "machine": None if machine is None else asdict(machine),
        "notes": notes,
    }
    return Report(
        name="plan",
        title="How many replicas",
        tables=tables,
        facts=[
            ("service curve", source),
            (
                "a replica",
                f"{curve.capacity_per_s:.1f} pictures/s at most, works on {curve.servers} requests at once, "
                f"queue of {curve.queue_size or 'any length'}",
            ),
            ("machine", f"{machine.cpu}, {machine.cores} cores" if machine else ""),
            ("date", machine.date if machine else ""),
            ("command", f"`{machine.command}`" if machine else ""),
        ],
        notes=notes,
        data=data,
    )


def curve_rows(curve: ServiceCurve) -> list[list[Cell]]:
    """One row a point."""
    rows: list[list[Cell]] = []
    for point in curve.points:
        p50_ms, p99_ms = np.percentile(1e3 * point.latencies_s, (50, 99))
        mean_ms = 1e3 * float(point.latencies_s.mean())
        rows.append([point.concurrency, point.pictures_per_s, mean_ms, float(p50_ms), float(p99_ms)])
    return rows


def _answer(one: Answer) -> list[Cell]:
    return [
        one.demand.name,
        one.demand.pictures_per_s,
        one.replicas,
        one.pictures_per_s_each,
        one.p50_ms,
        one.p99_ms,
        one.mean_wait_ms,
        one.network_mbit_per_s,
    ]


def _check(one: Checked) -> list[Cell]:
    latencies_ms, simulated = one.measured.latencies_ms, one.simulated
    cells: list[Cell] = [100 * one.load, one.rate_per_s]
    cells += [float(latencies_ms.mean()), simulated.mean_ms, 100 * one.error()]
    for percent in (50, 99):
        measured_ms = float(np.percentile(latencies_ms, percent))
        cells += [measured_ms, simulated.percentile_ms(percent), 100 * one.error(percent)]
    return [*cells, len(one.measured.errors)]


def _as_objects(table: Table) -> list[dict[str, Cell]]:
    keys = [column.key for column in table.columns]
    return [dict(zip(keys, row, strict=True)) for row in table.rows]
