"""What ``detserve detect`` shows: progress, a table, the failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Column, Table

from detserve_client.results.outcomes import Detected, Outcome
from detserve_core.detections import Detections

_ROWS = 40
_PATH_CHARACTERS = 32


def progress_of(outcomes: Iterable[Outcome], total: int) -> Iterable[Outcome]:
    """Pass the outcomes on and show a progress bar on stderr while they come."""
    console = Console(stderr=True, emoji=False)
    return track(
        outcomes, "detecting", total=total, console=console, transient=True, disable=not console.is_terminal
    )


def print_report(outcomes: Sequence[Outcome], elapsed_s: float, window: int) -> None:
    """Print a table of the pictures and a summary on stdout, and each failure on stderr.

    ``window`` is how many requests were in flight at a time, which the latencies hold.
    """
    done = [outcome for outcome in outcomes if outcome.ok]
    failed = [outcome for outcome in outcomes if not outcome.ok]
    console, stderr = Console(emoji=False), Console(stderr=True, emoji=False)
    if done:
        console.print(_table(done))
    found = sum(len(outcome.detections) for outcome in done)
    console.print(
        f"pictures {len(done)}, detections {found}, failed {len(failed)}, in {elapsed_s:.2f} s",
        highlight=False,
    )
    if len(done) > 1 and window > 1:
        console.print(
            f"a latency is from reading a picture to its detections, with up to {min(window, len(outcomes))} "
            "in flight: --window 1 shows a picture's own",
            highlight=False,
            soft_wrap=True,
        )
    for outcome in failed:
        text, source = str(outcome.error), str(outcome.source)
        where = "" if source in text else f"{source}: "
        stderr.print(f"[red]failed[/red] {escape(where + text)}", soft_wrap=True, highlight=False)


def _table(done: Sequence[Detected]) -> Table:
    table = Table(
        Column("picture", no_wrap=True),
        Column("detections", justify="right"),
        "classes",
        Column("best score", justify="right"),
        Column("latency ms", justify="right"),
    )
    for outcome in done[:_ROWS]:
        table.add_row(
            escape(_end_of(str(outcome.source))),
            str(len(outcome.detections)),
            _classes(outcome.detections),
            _best(outcome.detections),
            f"{outcome.latency_s * 1000:.1f}",
        )
    if len(done) > _ROWS:
        table.add_row(f"and {len(done) - _ROWS} more")
    return table


def _end_of(path: str) -> str:
    return path if len(path) <= _PATH_CHARACTERS else f"…{path[1 - _PATH_CHARACTERS :]}"


def _classes(detections: Detections) -> str:
    counts = Counter(detection.label for detection in detections)
    return escape(", ".join(f"{count} {label}" for label, count in counts.most_common()))


def _best(detections: Detections) -> str:
    best = max(detections, key=lambda detection: detection.score, default=None)
    return "" if best is None else f"{best.score:.2f}"
