"""All measurements of some folders on one HTML page that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from detserve_core.errors import MissingExtra
from detserve_perf.errors import MeasurementError
from detserve_perf.report.measurements import Measurements, metrics
from detserve_perf.report.page_figures import (
    accuracy_against_latency,
    memory_over_time,
    servers_compared,
    step_breakdown,
    throughput_against_latency,
)
from detserve_perf.report.regressions import RULE, Change, changes

_MACHINE = {
    "cpu": "CPU",
    "cores": "cores",
    "triton": "Triton",
    "onnxruntime": "ONNX Runtime",
    "opencv": "OpenCV",
    "date": "measured",
}
_CHANGE = (("figure", "text"), ("then", ""), ("now", ""), ("change", ""), ("noise", ""), ("verdict", "text"))
_ACCURACY = ("ap", "ap50", "ap75", "pictures", "boxes", "detections")


@dataclass(frozen=True)
class _Grid:
    """A table: texts, each with its CSS class."""

    columns: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[tuple[str, str]]]


@dataclass(frozen=True)
class _Figure:
    svg: str
    caption: str


@dataclass(frozen=True)
class _Part:
    title: str
    figure: _Figure | None = None
    grids: Sequence[_Grid] = ()


def html_report(results: Sequence[Measurements], earlier: Measurements | None = None) -> str:
    """The page; with ``earlier``, what changed since then comes first.

    Raises :class:`MeasurementError` when ``earlier`` has no figure in common with ``results``, and
    :class:`MissingExtra` without Jinja2.
    """
    try:
        import jinja2
    except ImportError:
        raise MissingExtra("jinja2", "perf") from None

    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("detserve_perf", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    throughput = "Throughput against latency; left and up is better. The numbers are requests in flight."
    return templates.get_template("page.html.j2").render(
        names=", ".join(one.name for one in results),
        since=None if earlier is None else _since(results, earlier),
        figures=_figures(
            (throughput_against_latency(results), throughput),
            (accuracy_against_latency(results), "Accuracy against latency; left and up is better."),
        ),
        sections=[{"name": one.name, "parts": list(_parts(one)), "notes": _notes(one)} for one in results],
        machines=[fact for one in results for fact in _machine(one)],
    )


def _figures(*drawn: tuple[str | None, str]) -> list[_Figure]:
    """Those that could be drawn; the SVG is ours and is not escaped."""
    from markupsafe import Markup

    return [_Figure(Markup(svg), caption) for svg, caption in drawn if svg]  # noqa: S704


def _since(results: Sequence[Measurements], earlier: Measurements) -> dict[str, Any]:
    now = [metric for one in results for metric in metrics(one)]
    found = changes(now, metrics(earlier))
    if not found:
        raise MeasurementError(
            f"{earlier.folder} has no figure in common with {', '.join(str(one.folder) for one in results)}; "
            "--against takes an earlier run of the same measurements"
        )
    return {
        "when": earlier.machine.get("date") or earlier.folder,
        "worse": sum(change.verdict == "worse" for change in found),
        "rule": RULE,
        "grid": _Grid(_CHANGE, [_change_row(change) for change in found]),
    }


def _change_row(change: Change) -> list[tuple[str, str]]:
    relative = f"{change.now / change.earlier - 1:+.1%}" if change.earlier else "-"
    noise = "-" if change.noise is None else f"±{change.noise:.3g}"
    cells = [f"{change.earlier:.4g}", f"{change.now:.4g}", relative, noise]
    name = f"{change.metric.name} {change.metric.unit}".strip()
    verdict = (change.verdict, f"text fixed {change.verdict.replace(' ', '-')}")
    return [(name, "text"), *((cell, "") for cell in cells), verdict]


def _parts(one: Measurements) -> Iterator[_Part]:
    """What was measured in one folder, in the order of the page."""

    def part(
        title: str, *grids: Sequence[dict[str, Any]], drawn: str | None = None, caption: str = ""
    ) -> _Part:
        figure = next(iter(_figures((drawn, caption))), None)
        return _Part(title, figure, [_grid(rows) for rows in grids if rows])

    compared = "The same ONNX and steps; the thin lines span the rounds, the dashed line is in-process."
    memory = "The dotted line ends the warm-up."
    yield part("Load points", _rows(one, "sweep"))
    yield part("Where the time goes", drawn=step_breakdown(one), caption="Time of a request in each step.")
    yield part("Beside other servers", _rows(one, "compare"), drawn=servers_compared(one), caption=compared)
    yield part("Overload", _rows(one, "overload"))
    yield part("Accuracy", _accuracy(one))
    yield part("Capacity", _rows(one, "plan", "machines"), _rows(one, "plan", "rates"))
    yield part("Memory under load", drawn=memory_over_time(one), caption=memory)


def _notes(one: Measurements) -> list[str]:
    return list(
        dict.fromkeys(str(note) for data in one.measured.values() for note in data.get("notes") or ())
    )


def _rows(one: Measurements, kind: str, key: str = "table") -> list[dict[str, Any]]:
    rows = one.measured.get(kind, {}).get(key)
    return rows if isinstance(rows, list) else []


def _accuracy(one: Measurements) -> list[dict[str, Any]]:
    table = one.measured.get("accuracy", {}).get("table")
    if not isinstance(table, dict):
        return []
    return [{"model": one.name, **{key: table.get(key) for key in _ACCURACY}}]


def _grid(rows: Sequence[dict[str, Any]]) -> _Grid:
    """A column for each key that has a value in some row."""
    keys = [key for key in rows[0] if any(row.get(key) is not None for row in rows)]
    kinds = ["text" if any(isinstance(row.get(key), str) for row in rows) else "" for key in keys]
    columns = [(_heading(key), kind) for key, kind in zip(keys, kinds, strict=True)]
    return _Grid(
        columns,
        [[(_cell(row.get(key)), kind) for key, kind in zip(keys, kinds, strict=True)] for row in rows],
    )


def _heading(key: str) -> str:
    for ending, unit in (("_percent", " %"), ("_per_s", "/s"), ("_mib", " MiB"), ("_ms", " ms")):
        key = key.replace(ending, unit)
    return (
        key.replace("_", " ")
        .replace("cpu", "CPU")
        .replace("mbit", "Mbit")
        .replace("in process", "in-process")
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) < 10 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _machine(one: Measurements) -> list[tuple[str, str]]:
    commands = dict.fromkeys(
        str(data["machine"]["command"]) for data in one.measured.values() if data.get("machine")
    )
    return [
        ("measurements", one.name),
        *((name, str(one.machine.get(field) or "-")) for field, name in _MACHINE.items()),
        ("commands", "; ".join(commands)),
    ]
