"""A comparison of servers as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import median

from detserve_core.machine.processes import MIB
from detserve_perf.report.tables import Cell, Column, Report, Table
from detserve_perf.speed.compare import Contest, ContestRun, ContestSettings
from detserve_perf.speed.reference import ReferenceRun
from detserve_perf.speed.sweep import spread

_COLUMNS = (
    Column("server", "server"),
    Column("protocol", "protocol"),
    Column("pictures/s", "pictures_per_s", 1),
    Column("spread %", "spread_percent", 1),
    Column("/ in-process", "over_in_process"),
    Column("p50 ms", "p50_ms", 1),
    Column("p99 ms", "p99_ms", 1),
    Column("peak MiB", "peak_mib", 0),
    Column("CPU ms", "server_cpu_ms", 1),
)


def compare_report(result: Contest, settings: ContestSettings) -> Report:
    """Medians over the rounds; the JSON holds every run."""
    machine = result.machine
    table = contest_table(result.runs, result.references)
    keys = [column.key for column in table.columns]
    return Report(
        name="compare",
        title=f"{result.model} behind several servers",
        tables=[table],
        facts=[
            ("machine", f"{machine.cpu}, {machine.cores} cores; servers and generator share them"),
            (
                "steps",
                f"ONNX Runtime {machine.onnxruntime}, OpenCV {machine.opencv}, Triton {machine.triton}",
            ),
            (
                "load",
                f"{settings.concurrency} requests in flight, {result.pictures} distinct pictures, "
                f"{settings.requests} requests a round, {settings.repeats} rounds",
            ),
            ("peak MiB", "proportional set size of all the server's processes while it was loaded"),
            (
                "CPU ms",
                f"of all the server's processes for one picture; the generator's own: {_generator(result)}",
            ),
            ("date", machine.date),
            ("command", f"`{machine.command}`"),
        ],
        notes=result.notes,
        data={
            **asdict(result),
            "settings": asdict(settings),
            "table": [dict(zip(keys, row, strict=True)) for row in table.rows],
        },
    )


def contest_table(runs: Sequence[ContestRun], references: Sequence[ReferenceRun]) -> Table:
    """One row a server and protocol, the fastest first, under the in-process reference."""
    speeds = [reference.pictures_per_s for reference in references]
    in_process: list[Cell] = ["in-process", "-", median(speeds), _spread_percent(speeds), 1.0, *[None] * 4]
    groups = dict.fromkeys((run.name, run.protocol) for run in runs)
    rows = [_row([run for run in runs if (run.name, run.protocol) == group]) for group in groups]
    rows.sort(key=lambda row: -float(row[2] or 0))
    return Table("Throughput, latency and memory", _COLUMNS, [in_process, *rows])


def _row(runs: Sequence[ContestRun]) -> list[Cell]:
    speeds, ratios = [run.pictures_per_s for run in runs], [run.ratio for run in runs]
    return [
        runs[0].name,
        runs[0].protocol,
        median(speeds),
        _spread_percent(speeds),
        median(ratios),
        median(run.p50_ms for run in runs),
        median(run.p99_ms for run in runs),
        max(run.peak_bytes for run in runs) / MIB,
        median(run.server_cpu_ms for run in runs),
    ]


def _spread_percent(values: Sequence[float]) -> float | None:
    return 100 * spread(values) if len(values) > 1 else None


def _generator(result: Contest) -> str:
    by_protocol = {
        protocol: median(run.generator_cpu_ms for run in result.runs if run.protocol == protocol)
        for protocol in dict.fromkeys(run.protocol for run in result.runs)
    }
    return ", ".join(f"{cpu_ms:.2f} over {protocol}" for protocol, cpu_ms in by_protocol.items())
