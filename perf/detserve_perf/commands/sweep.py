"""``detserve perf sweep``."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from detserve_perf.errors import MeasurementError
from detserve_perf.load.perf_analyzer_run import LoadPoint


def sweep(
    url: Annotated[str, typer.Option(help="The server: grpc://HOST:PORT or http://HOST:PORT.")],
    model: Annotated[str, typer.Option(help="The ensemble to send pictures to.")],
    pictures: Annotated[Path, typer.Option(help="Folder of pictures to send, 16 or more.")],
    output: Annotated[Path, typer.Option(help="Folder for sweep.md, sweep.csv, sweep_2.csv and sweep.json.")],
    repository: Annotated[
        Path | None, typer.Option(help="The served repository, for the in-process reference.")
    ] = None,
    concurrency: Annotated[str, typer.Option(help="Requests in flight, e.g. 1,2,4,8.")] = "1,2,4,8",
    batch: Annotated[str, typer.Option(help="Pictures in a request, e.g. 1,4.")] = "1",
    requests: Annotated[int, typer.Option(min=1, help="Requests per point and repeat.")] = 300,
    repeats: Annotated[int, typer.Option(min=1, help="How often the whole sweep is run.")] = 3,
) -> None:
    """Throughput, latency and time per step over concurrency and batch, beside the in-process reference."""
    from detserve_perf.speed.sweep import SweepSettings
    from detserve_perf.speed.sweep import sweep as measure
    from detserve_perf.speed.sweep_report import sweep_report

    batches, concurrencies = _numbers(batch, "--batch"), _numbers(concurrency, "--concurrency")
    points = tuple(LoadPoint(c, b) for b, c in product(batches, concurrencies))
    settings = SweepSettings(points, requests, repeats)
    terminal = Console(stderr=True, emoji=False)
    with Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        task = progress.add_task("starting", total=settings.phases(reference=repository is not None))
        begun = 0

        def on_progress(phase: str) -> None:
            nonlocal begun
            progress.update(task, description=escape(phase), completed=begun)
            begun += 1

        result = measure(url, model, pictures, repository, settings, on_progress)
    report = sweep_report(result, settings)
    written = report.write(output)
    report.print(Console(markup=False, emoji=False))
    typer.echo(f"written: {', '.join(map(str, written))}")


def _numbers(text: str, option: str) -> list[int]:
    """``"1,2,4"`` -> [1, 2, 4], each once; raises :class:`MeasurementError`."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise MeasurementError(f"{option} is {text!r}; expected whole numbers from 1 on, e.g. 1,2,4")
    return list(dict.fromkeys(numbers))
