"""A plan as tables and a figure."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import mean, median

from detserve_perf.capacity.plan import RateSweep, by_rate, largest_rate, machines_for
from detserve_perf.load.corpus import corpus_note
from detserve_perf.report.machine import Machine
from detserve_perf.report.tables import Cell, Column, Figure, Report, Table
from detserve_perf.speed.sweep import spread

_MACHINES = (
    Column("wanted, pictures/s", "pictures_per_s", 1),
    Column("p99 ms", "p99_ms", 0),
    Column("a machine at most, pictures/s", "largest_per_s", 1),
    Column("head-room %", "headroom_percent", 0),
    Column("machines", "machines"),
    Column("each, pictures/s", "pictures_per_s_each", 1),
    Column("network in, Mbit/s", "network_mbit_per_s", 1),
)
_RATES = (
    Column("offered, pictures/s", "offered_per_s", 1),
    Column("of the capacity %", "share_percent", 0),
    Column("p50 ms", "p50_ms", 1),
    Column("p99 ms, best round", "best_p99_ms", 1),
    Column("p99 ms, worst round", "worst_p99_ms", 1),
    Column("refused %", "refused_percent", 1),
    Column("holds", "holds"),
)
_MBIT = 1e6 / 8


@dataclass(frozen=True)
class Wanted:
    """A rate in all, within a p99, with a share of each machine kept free."""

    pictures_per_s: float
    p99_ms: float
    headroom: float


def plan_report(
    sweep: RateSweep, wanted: Wanted, pictures: Sequence[bytes], machine: Machine, *, server: str, model: str
) -> Report:
    """The machines, and every rate it rests on. Raises as :func:`largest_rate` does."""
    largest_per_s = largest_rate(sweep, wanted.p99_ms)
    machines = machines_for(wanted.pictures_per_s, largest_per_s, wanted.headroom)
    machine_table = Table("Machines", _MACHINES, [_machines(wanted, largest_per_s, machines, pictures)])
    rate_table = Table("Rates that were sent", _RATES, rate_rows(sweep, largest_per_s))
    rounds = len(sweep.capacities_per_s) - 1
    facts = [
        ("server", f"{server}, Triton {machine.triton}"),
        ("measured from", f"{machine.cpu}, {machine.cores} cores"),
        (
            "capacity",
            f"{median(sweep.capacities_per_s):.1f} pictures/s to {sweep.callers} callers that wait, spread "
            f"{spread(sweep.capacities_per_s):.0%}",
        ),
        (
            "load",
            f"at random times, {rounds} rounds, {sweep.duration_s:g} s or more a rate and round",
        ),
        ("date", machine.date),
        ("command", f"`{machine.command}`"),
    ]
    notes = [*filter(None, [_largest_note(sweep, largest_per_s), corpus_note(len(pictures)), *_ASSUMED])]
    data = {
        "model": model,
        **asdict(wanted),
        "largest_per_s": largest_per_s,
        "machines": _as_objects(machine_table),
        "rates": _as_objects(rate_table),
        "sweep": asdict(sweep),
        "machine": asdict(machine),
        "notes": notes,
    }
    figure = Figure("p99 over the rate", "plan.png", partial(rates_png, sweep, wanted.p99_ms, largest_per_s))
    return Report("plan", "How many machines", [machine_table, rate_table], facts, notes, data, [figure])


_ASSUMED = (
    "a rate holds when 99 % of all its requests, refused ones too, were answered in time in every round, "
    "and so at every smaller rate",
    "requests arrive at random and independently: cameras that fire at the same moment need more machines",
    "every machine is like the measured one and takes an equal share; one more covers a failure",
)


def rate_rows(sweep: RateSweep, largest_per_s: float) -> list[list[Cell]]:
    """One row a rate over its rounds."""
    capacity_per_s = sweep.capacities_per_s[0]
    return [
        [
            rate_per_s,
            100 * rate_per_s / capacity_per_s,
            _known(median, [run.p50_ms for run in runs]),
            _known(min, [run.p99_ms for run in runs]),
            _known(max, [run.p99_ms for run in runs]),
            100 * sum(run.refused for run in runs) / sum(run.requests for run in runs),
            "yes" if rate_per_s <= largest_per_s else "no",
        ]
        for rate_per_s, runs in by_rate(sweep).items()
    ]


def rates_png(sweep: RateSweep, p99_ms: float, largest_per_s: float) -> bytes:
    """p50 and p99 of every round over the rate, the target and the largest rate that holds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(9, 4.5), dpi=110, layout="constrained")
    FigureCanvasAgg(drawing)
    panel = drawing.subplots()
    for field, style, colour in (("p99_ms", "o", "C0"), ("p50_ms", "s", "C2")):
        points = [(run.offered_per_s, y) for run in sweep.runs if (y := getattr(run, field)) is not None]
        panel.plot(*zip(*points, strict=True), style, color=colour, label=f"{field[:3]}, one round")
    panel.axhline(p99_ms, color="0.5", linestyle="--", label=f"wanted: {p99_ms:g} ms")
    panel.axvline(largest_per_s, color="C1", linestyle=":", label=f"holds up to {largest_per_s:.1f}/s")
    panel.set_xlim(left=0)
    panel.set_ylim(bottom=0)
    panel.set_xlabel("offered, pictures/s")
    panel.set_ylabel("latency, ms")
    panel.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png")
    return buffer.getvalue()


def _machines(wanted: Wanted, largest_per_s: float, machines: int, pictures: Sequence[bytes]) -> list[Cell]:
    network_mbit = wanted.pictures_per_s * mean(map(len, pictures)) / _MBIT
    each_per_s = wanted.pictures_per_s / machines
    percent = 100 * wanted.headroom
    return [wanted.pictures_per_s, wanted.p99_ms, largest_per_s, percent, machines, each_per_s, network_mbit]


def _largest_note(sweep: RateSweep, largest_per_s: float) -> str | None:
    if largest_per_s < max(by_rate(sweep)):
        return None
    return "the largest rate that was sent holds too: here the capacity is the limit, not the p99"


def _known(pick: Callable[[list[float]], float], values: Sequence[float | None]) -> float | None:
    """``pick`` of the values; None where one of them is not known."""
    known = [value for value in values if value is not None]
    return pick(known) if len(known) == len(values) else None


def _as_objects(table: Table) -> list[dict[str, Cell]]:
    keys = [column.key for column in table.columns]
    return [dict(zip(keys, row, strict=True)) for row in table.rows]
