"""A soak as a table, a CSV of every sample and a figure."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

from detserve_core.machine.processes import MIB
from detserve_perf.capacity.soak import BOUND, MemorySample, ProcessCourse, Soak, courses, what_is_wrong
from detserve_perf.report.tables import Column, Figure, Report, Table

_COURSE = (
    Column("process", "process"),
    Column("pid", "pid"),
    Column("warm MiB", "warm_mib", 1),
    Column("least MiB", "least_mib", 1),
    Column("most MiB", "most_mib", 1),
    Column("end MiB", "end_mib", 1),
    Column("growth %", "growth_percent", 2),
)
_SAMPLE = (
    Column("time s", "time_s", 1),
    Column("pid", "pid"),
    Column("process", "process"),
    Column("RSS bytes", "rss_bytes"),
    Column("PSS bytes", "pss_bytes"),
)


def soak_report(result: Soak) -> Report:
    """The verdict in the notes; soak.csv has the processes, soak_samples.csv every sample."""
    machine, found = result.machine, courses(result.samples, result.warm_up_s)
    wrong = what_is_wrong(result)
    verdict = (
        f"not passed: {wrong}"
        if wrong
        else f"passed: no request failed, no process grew by more than {BOUND:.0%}"
    )
    return Report(
        name="soak",
        title=f"Memory of {result.model} under load",
        tables=[Table("Every process after the warm-up", _COURSE, [_row(course) for course in found])],
        facts=[
            ("verdict", verdict),
            (
                "load",
                f"{result.rate_per_s:.1f} pictures/s at random times, {result.load:.0%} of the capacity of "
                f"{result.capacity_per_s:.1f}, for {result.duration_s:g} s of which {result.warm_up_s:g} s "
                f"are warm-up; {result.answered} answered, {len(result.errors)} refused or failed",
            ),
            ("memory", "resident set size (RSS); soak_samples.csv has the proportional one (PSS) too"),
            ("growth", "largest sample after the warm-up, divided by the median of the first five"),
            ("machine", f"{machine.cpu}, {machine.cores} cores, Triton {machine.triton}"),
            ("date", machine.date),
            ("command", f"`{machine.command}`"),
        ],
        notes=[verdict, *result.notes],
        data={
            **asdict(result),
            "errors": len(result.errors),
            "processes": [{**asdict(course), "growth": course.growth} for course in found],
            "passed": wrong is None,
        },
        figures=[Figure("Memory of every process", "soak.png", partial(memory_png, result))],
    )


def samples_table(samples: Sequence[MemorySample]) -> Table:
    """One row a process and time."""
    rows = [
        [sample.time_s, process.pid, process.name, process.rss_bytes, process.pss_bytes]
        for sample in samples
        for process in sample.processes
    ]
    return Table("Samples", _SAMPLE, rows)


def memory_png(result: Soak) -> bytes:
    """Each process relative to its level at the end of the warm-up, with the band it must stay in."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(9, 4.5), dpi=110, layout="constrained")
    FigureCanvasAgg(drawing)
    panel = drawing.subplots()
    for course in courses(result.samples, result.warm_up_s):
        points = [
            (sample.time_s / 60, 100 * (process.rss_bytes / course.level_bytes - 1))
            for sample in result.samples
            for process in sample.processes
            if process.pid == course.pid
        ]
        label = f"{course.name} ({course.pid}), {course.level_bytes / MIB:.0f} MiB"
        panel.plot(*zip(*points, strict=True), linewidth=1, label=label)
    panel.axhspan(-100 * BOUND, 100 * BOUND, color="0.9", zorder=0, label=f"within {BOUND:.0%}")
    panel.axvline(result.warm_up_s / 60, color="0.5", linestyle=":", label="end of the warm-up")
    panel.set_ylim(-300 * BOUND, 300 * BOUND)
    panel.set_xlabel("minutes")
    panel.set_ylabel("memory over its level when warm, %")
    panel.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png")
    return buffer.getvalue()


def _row(course: ProcessCourse) -> list[str | int | float | None]:
    sizes = (course.level_bytes, course.least_bytes, course.most_bytes, course.end_bytes)
    return [course.name, course.pid, *(size / MIB for size in sizes), 100 * course.growth]
