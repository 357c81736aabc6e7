"""Every candidate as a table, and AP against latency as a plot."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from detserve_builder.precision.gate import Gate, Measured, pareto_front
from detserve_core.text import readable

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

    from detserve_builder.precision.choice import PrecisionChoice

_HEADINGS = ("candidate", "drop", "layers", "size MB", "latency ms", "speed-up", "gate")


def table(outcome: PrecisionChoice) -> Table:
    """For the terminal."""
    from rich.table import Column, Table

    first, *rest = _HEADINGS
    made = Table(
        Column(first, overflow="fold"),
        Column(outcome.figure, justify="right", overflow="fold"),
        *(Column(heading, justify="right", overflow="fold") for heading in rest),
    )
    for measured in outcome.tried:
        made.add_row(*_row(measured, outcome), style="bold green" if measured is outcome.chosen else "")
    return made


def png(outcome: PrecisionChoice) -> bytes:
    """The plot as a picture."""
    image = io.BytesIO()
    _figure(outcome).savefig(image, format="png", dpi=120)
    return image.getvalue()


def page(outcome: PrecisionChoice) -> bytes:
    """The plot and the table as one HTML file that needs no other."""
    import jinja2
    from markupsafe import Markup

    drawing = io.StringIO()
    _figure(outcome).savefig(drawing, format="svg")
    svg = drawing.getvalue()[drawing.getvalue().index("<svg") :]
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("detserve_builder", "precision"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    page = templates.get_template(
        "report.html.j2"
    ).render(
        plot=Markup(svg),  # noqa: S704 - drawn here
        headings=(_HEADINGS[0], outcome.figure, *_HEADINGS[1:]),
        rows=[(_row(measured, outcome), measured is outcome.chosen) for measured in outcome.tried],
        machine=outcome.record.get("machine"),
    )
    return readable(page).encode()


def _row(measured: Measured, outcome: PrecisionChoice) -> tuple[str, ...]:
    return (
        measured.candidate.label,
        f"{measured.ap:.4f}",
        f"{measured.ap_drop:+.4f}",
        _layers(measured),
        f"{measured.size_bytes / 1e6:.2f}",
        "-" if measured.latency_ms is None else f"{measured.latency_ms:.2f}",
        "-" if measured.speedup is None else f"{measured.speedup:.2f}",
        _verdict(measured, outcome.gate) if outcome.gate else "",
    )


def _layers(measured: Measured) -> str:
    """How many of the layers with weights the pass changed."""
    settings = measured.candidate.settings
    return f"{settings['layers_changed']} of {settings['layers']}" if "layers" in settings else "-"


def _verdict(measured: Measured, gate: Gate) -> str:
    if measured.candidate.baseline:
        return "for comparison"
    if gate.passes(measured):
        return "passes"
    missed = ([] if gate.accurate(measured) else ["drop"]) + ([] if gate.fast(measured) else ["speed"])
    return "fails: " + ", ".join(missed)


def _relative_latency(measured: Measured) -> float:
    """To fp32 in the same run: times of different runs do not compare. Not drawn where it is not known."""
    return 1 / measured.speedup if measured.speedup else float("nan")


def _figure(outcome: PrecisionChoice) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.add_subplot()
    for measured in outcome.tried:
        marker = "*" if measured is outcome.chosen else "o"
        position = (_relative_latency(measured), measured.ap)
        axes.plot(*position, marker, markersize=12 if marker == "*" else 6)
        axes.annotate(
            measured.candidate.label,
            position,
            xytext=(5, 4),
            textcoords="offset points",
            fontsize=7,
        )
    front = sorted(pareto_front(outcome.tried), key=_relative_latency)
    axes.plot(
        [_relative_latency(m) for m in front], [m.ap for m in front], "--", color="grey", label="Pareto front"
    )
    if outcome.gate and outcome.tried:
        least = outcome.tried[0].ap - outcome.gate.max_ap_drop
        axes.axhline(least, color="red", linewidth=0.8, label="least that passes")
    axes.set(xlabel="latency over that of fp32 in the same run (in-process, batch 1)", ylabel=outcome.figure)
    axes.legend(loc="lower right")
    return figure
