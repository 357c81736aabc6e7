"""The figures of the HTML report, as SVG that takes the page's own text colour."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from statistics import median
from typing import Any

from detserve_perf.report.measurements import Measurements

#: Readable on white and on near-black.
COLOURS = ("#3b82c4", "#d97706", "#2f9e63", "#d64545", "#8b5cf6", "#0e9aa7", "#b45391", "#7a8b99")
_TEXT = "#010203"  # replaced by currentColor
_PHASES = (
    ("queue_ms", "queue", 0.3),
    ("compute_input_ms", "input", 0.55),
    ("compute_infer_ms", "compute", 1.0),
    ("compute_output_ms", "output", 0.55),
)


def throughput_against_latency(results: Sequence[Measurements]) -> str | None:
    """One line a sweep, a point for each concurrency; p50 drawn through, p99 dotted."""
    sweeps = [one for one in results if "sweep" in one.measured]
    if not sweeps:
        return None
    drawing, panel = _panel("latency, ms", "pictures/s")
    for one, colour in zip(sweeps, _cycle(), strict=False):
        rows = [row for row in one.measured["sweep"]["table"] if row["batch"] == 1]
        rows = sorted(rows or one.measured["sweep"]["table"], key=lambda row: row["concurrency"])
        speeds = [row["pictures_per_s"] for row in rows]
        panel.plot([row["p50_ms"] for row in rows], speeds, "o-", color=colour, label=f"{one.name}, p50")
        panel.plot([row["p99_ms"] for row in rows], speeds, "s:", color=colour, label=f"{one.name}, p99")
        for row in rows:
            at = (row["p50_ms"], row["pictures_per_s"])
            panel.annotate(
                str(row["concurrency"]),
                at,
                xytext=(-7, 5),
                textcoords="offset points",
                ha="center",
                color=_TEXT,
            )
    panel.set_xlim(left=0)
    panel.set_ylim(bottom=0)
    return _svg(drawing, panel, "throughput")


def step_breakdown(results: Measurements) -> str | None:
    """Mean time of a request in each step, at every concurrency of batch 1."""
    if "sweep" not in results.measured:
        return None
    runs = [run for run in results.measured["sweep"]["runs"] if run["point"]["batch"] == 1]
    points = sorted({run["point"]["concurrency"] for run in runs})
    if not points:
        return None
    bars: list[tuple[str, list[float], str, float]] = []
    for position, step in enumerate(runs[0]["steps"]):
        name_of_step = step["model"].removeprefix(f"{results.name}_")
        for field, name, opacity in _PHASES:
            heights = [
                median(r["steps"][position][field] for r in runs if r["point"]["concurrency"] == point)
                for point in points
            ]
            bars.append((f"{name_of_step}: {name}", heights, COLOURS[position % len(COLOURS)], opacity))
    largest = max(max(bar[1]) for bar in bars)
    bars = [bar for bar in bars if max(bar[1]) > 0.01 * largest]
    drawing, panel = _panel("mean ms per request", "concurrency")
    left = [0.0] * len(points)
    names = [str(point) for point in points]
    for name, widths, colour, opacity in bars:
        panel.barh(names, widths, left=left, height=0.62, color=colour, alpha=opacity, label=name)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    panel.invert_yaxis()
    return _svg(drawing, panel, f"steps-{results.name}")


def servers_compared(results: Measurements) -> str | None:
    """Throughput of each server over in-process, with the range of its rounds."""
    if "compare" not in results.measured:
        return None
    groups: dict[str, list[float]] = {}
    for run in results.measured["compare"]["runs"]:
        groups.setdefault(f"{run['name']} ({run['protocol']})", []).append(run["ratio"])
    ranked = sorted(groups.items(), key=lambda item: median(item[1]))
    drawing, panel = _panel("throughput / in-process", "", height_in=0.9 + 0.36 * len(ranked))
    for name, ratios in ranked:
        middle = median(ratios)
        colour = COLOURS[0] if name.startswith("detserve") else COLOURS[-1]
        error = [[middle - min(ratios)], [max(ratios) - middle]]
        panel.barh(name, middle, xerr=error, height=0.62, color=colour, ecolor=_TEXT, capsize=3)
    panel.axvline(1, color=_TEXT, linewidth=1, linestyle="--")
    return _svg(drawing, panel, f"compare-{results.name}", legend=False)


def accuracy_against_latency(results: Sequence[Measurements]) -> str | None:
    """One point a folder that has both: AP over p50 with the fewest requests in flight."""
    both = [one for one in results if {"sweep", "accuracy"} <= set(one.measured)]
    if not both:
        return None
    drawing, panel = _panel("p50 latency with the fewest requests in flight, ms", "AP")
    for one, colour in zip(both, _cycle(), strict=False):
        rows = one.measured["sweep"]["table"]
        latency_ms = min(rows, key=lambda row: (row["batch"], row["concurrency"]))["p50_ms"]
        ap = one.measured["accuracy"]["table"]["ap"]
        panel.plot([latency_ms], [ap], "o", markersize=9, color=colour, label=f"{one.name}: {ap:.3f}")
    panel.set_xlim(left=0)
    panel.set_ylim(0, 1)
    return _svg(drawing, panel, "accuracy")


def memory_over_time(results: Measurements) -> str | None:
    """Resident memory of every process of a soak."""
    if "soak" not in results.measured:
        return None
    soak = results.measured["soak"]
    drawing, panel = _panel("minutes", "resident memory, MiB")
    for process, colour in zip(soak["processes"], _cycle(), strict=False):
        points = [
            (sample["time_s"] / 60, one["rss_bytes"] / 2**20)
            for sample in soak["samples"]
            for one in sample["processes"]
            if one["pid"] == process["pid"]
        ]
        label = f"{process['name']} ({process['pid']})"
        panel.plot(*zip(*points, strict=True), color=colour, linewidth=1.4, label=label)
    panel.axvline(soak["warm_up_s"] / 60, color=_TEXT, linewidth=1, linestyle=":")
    panel.set_ylim(bottom=0)
    return _svg(drawing, panel, f"soak-{results.name}")


def _cycle() -> list[str]:
    return list(COLOURS) * 4


def _panel(x: str, y: str, height_in: float = 3.4) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(8.4, height_in), layout="constrained")
    panel = drawing.subplots()
    panel.set_xlabel(x, color=_TEXT)
    panel.set_ylabel(y, color=_TEXT)
    panel.tick_params(colors=_TEXT)
    panel.grid(color=_TEXT, alpha=0.15, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.patch.set_visible(False)
    for side, spine in panel.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_TEXT)
    return drawing, panel


def _svg(drawing: Any, panel: Any, salt: str, *, legend: bool = True) -> str:
    """Inline SVG: no prologue, no foreign addresses, text as text."""
    import matplotlib as mpl

    if legend:
        panel.legend(
            loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, labelcolor=_TEXT, fontsize="small"
        )
    stream = io.StringIO()
    empty = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    # The salt keeps the identifiers of one figure apart from those of the next on the page.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        drawing.savefig(stream, format="svg", transparent=True, metadata=empty)
    text = stream.getvalue()
    text = text[text.index("<svg") :].replace(_TEXT, "currentColor")
    return re.sub(r'\s(?:xmlns(?::\w+)?|version)="[^"]*"', "", text)
