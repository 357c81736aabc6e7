"""All measurements of some folders on one HTML page that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from detserve_perf.errors import MeasurementError
from detserve_perf.report.earlier import Results, metrics
from detserve_perf.report.page_figures import (
    accuracy_against_latency,
    memory_over_time,
    servers_compared,
    stage_breakdown,
    throughput_against_latency,
)
from detserve_perf.report.regressions import RULE, Change, changes

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --bad: #c62828; --good: #1b7f4b; }
@media (prefers-color-scheme: dark) { :root { --bad: #ff8a80; --good: #69d19b; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; }
h2 { margin-top: 2.6rem; border-bottom: 1px solid var(--line); }
h3 { margin-top: 1.8rem; } .quiet { opacity: .75; }
.wide { overflow-x: auto; } svg { width: 100%; height: auto; } svg text { font-family: inherit; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .8rem 0; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid var(--line); }
th { vertical-align: bottom; background: var(--soft); font-weight: 600; }
th.text, td.text { text-align: left; } td.text { overflow-wrap: break-word; }
td.fixed { white-space: nowrap; } table.facts td:last-child { overflow-wrap: anywhere; }
.worse { color: var(--bad); font-weight: 600; } .better { color: var(--good); font-weight: 600; }
figure { margin: 1rem 0; } figcaption { font-size: .9rem; opacity: .75; }
"""
_MACHINE = {
    "cpu": "CPU",
    "cores": "cores",
    "triton": "Triton",
    "onnxruntime": "ONNX Runtime",
    "opencv": "OpenCV",
    "date": "measured",
}


def html_report(results: Sequence[Results], earlier: Results | None = None) -> str:
    """The page; with ``earlier``, what changed since then comes first.

    Raises :class:`MeasurementError` when ``earlier`` has no figure in common with ``results``.
    """
    body = [
        "<h1>What detserve measured</h1>",
        f'<p class="quiet">{escape(", ".join(one.name for one in results))}</p>',
    ]
    if earlier is not None:
        body.append(_since(results, earlier))
    body += [
        "<h2>Speed</h2>",
        _figure(
            throughput_against_latency(results),
            "Throughput against latency; left and up is better. The numbers are requests under way.",
        ),
        _figure(accuracy_against_latency(results), "Accuracy against latency; left and up is better."),
    ]
    for one in results:
        body.append(_section(one, alone=len(results) == 1))
    body.append("<h2>Machine and versions</h2>")
    body.append(_machines(results))
    title = escape(f"detserve: {', '.join(one.name for one in results)}")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body></html>\n"
    )


def _since(results: Sequence[Results], earlier: Results) -> str:
    now = [metric for one in results for metric in metrics(one)]
    found = changes(now, metrics(earlier))
    if not found:
        raise MeasurementError(
            f"{earlier.folder} has no figure in common with {', '.join(str(one.folder) for one in results)}; "
            "--against takes an earlier run of the same measurements"
        )
    worse = sum(change.verdict == "worse" for change in found)
    headline = f"{worse} of {len(found)} figures are worse" if worse else "No figure is worse"
    rows = [_change_row(change) for change in found]
    head = "".join(
        f'<th class="{kind}">{name}</th>'
        for name, kind in (
            ("figure", "text"),
            ("then", ""),
            ("now", ""),
            ("change", ""),
            ("noise", ""),
            ("verdict", "text"),
        )
    )
    return (
        f"<h2>Since {escape(str(earlier.machine.get('date') or earlier.folder))}</h2>"
        f'<p class="{"worse" if worse else "better"}">{headline}.</p><p class="quiet">{escape(RULE)}</p>'
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _change_row(change: Change) -> str:
    relative = f"{change.now / change.earlier - 1:+.1%}" if change.earlier else "-"
    noise = "-" if change.noise is None else f"±{change.noise:.3g}"
    cells = [f"{change.earlier:.4g}", f"{change.now:.4g}", relative, noise]
    name = f"{change.metric.name} {change.metric.unit}".strip()
    return (
        f'<tr><td class="text">{escape(name)}</td>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + f'<td class="text fixed {change.verdict.replace(" ", "-")}">{change.verdict}</td></tr>'
    )


def _section(one: Results, *, alone: bool) -> str:
    parts = [] if alone else [f"<h2>{escape(one.name)}</h2>"]
    parts += [
        _part("Load points", _table(one, "sweep")),
        _part("Where the time goes", _figure(stage_breakdown(one), "Time of a request in each step.")),
        _part(
            "Beside other servers",
            _figure(
                servers_compared(one),
                "The same ONNX and steps; the thin lines span the rounds, the dashed line is in-process.",
            ),
            _table(one, "compare"),
        ),
        _part("Overload", _table(one, "overload")),
        _part("Accuracy", _accuracy(one)),
        _part("Capacity", _table(one, "plan", "machines"), _table(one, "plan", "rates")),
        _part("Memory under load", _figure(memory_over_time(one), "The dotted line ends the warm-up.")),
    ]
    notes = dict.fromkeys(note for data in one.measured.values() for note in data.get("notes") or ())
    if notes:
        items = "".join(f"<li>{escape(str(note))}</li>" for note in notes)
        parts.append(f"<h3>Notes</h3><ul>{items}</ul>")
    return "\n".join(part for part in parts if part)


def _part(title: str, *content: str) -> str:
    shown = [one for one in content if one]
    return f"<h3>{escape(title)}</h3>" + "".join(shown) if shown else ""


def _figure(svg: str | None, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>" if svg else ""


def _table(one: Results, kind: str, key: str = "table") -> str:
    rows = one.measured.get(kind, {}).get(key)
    if not isinstance(rows, list) or not rows:
        return ""
    return _rows_as_table(rows)


def _rows_as_table(rows: Sequence[dict[str, Any]]) -> str:
    keys = [key for key in rows[0] if any(row.get(key) is not None for row in rows)]
    kinds = ["text" if any(isinstance(row.get(key), str) for row in rows) else "" for key in keys]
    head = "".join(
        f'<th class="{kind}">{escape(_heading(key))}</th>' for key, kind in zip(keys, kinds, strict=True)
    )
    lines = []
    for row in rows:
        cells = "".join(
            f'<td class="{kind}">{escape(_cell(row.get(key)))}</td>'
            for key, kind in zip(keys, kinds, strict=True)
        )
        lines.append(f"<tr>{cells}</tr>")
    body = "".join(lines)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


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


def _accuracy(one: Results) -> str:
    table = one.measured.get("accuracy", {}).get("table")
    if not isinstance(table, dict):
        return ""
    keys = ("ap", "ap50", "ap75", "pictures", "boxes", "detections")
    return _rows_as_table([{"model": one.name, **{key: table.get(key) for key in keys}}])


def _machines(results: Sequence[Results]) -> str:
    rows = []
    for one in results:
        machine = one.machine
        rows.append(
            {
                "measurements": one.name,
                **{name: str(machine.get(field) or "-") for field, name in _MACHINE.items()},
                "commands": "; ".join(
                    dict.fromkeys(
                        str(data["machine"]["command"])
                        for data in one.measured.values()
                        if data.get("machine")
                    )
                ),
            }
        )
    facts = [
        f'<tr><td class="text">{escape(key)}</td><td class="text">{escape(value)}</td></tr>'
        for row in rows
        for key, value in row.items()
    ]
    return f"<table class='facts'><tbody>{''.join(facts)}</tbody></table>"
