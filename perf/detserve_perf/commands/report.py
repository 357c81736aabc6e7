"""``detserve perf report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    results: Annotated[
        list[Path],
        typer.Argument(help="Folders with the JSON files of other perf commands.", metavar="RESULT_DIR..."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file.")],
    against: Annotated[
        Path | None, typer.Option(help="Folder of an earlier run: mark what changed beyond noise.")
    ] = None,
) -> None:
    """One HTML page of everything measured, which needs no other file."""
    from detserve_core.machine.whole_files import write_whole
    from detserve_core.text import readable
    from detserve_perf.accuracy.curves import require_plotting
    from detserve_perf.report.measurements import read_measurements
    from detserve_perf.report.page import html_report

    require_plotting()
    found = [read_measurements(folder) for folder in results]
    page = html_report(found, None if against is None else read_measurements(against))
    write_whole(output, readable(page).encode())
    typer.echo(f"written: {output}")
