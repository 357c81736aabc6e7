"""``detserve perf placement``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from detserve_perf.commands.progress import phases


def placement(
    repository: Annotated[
        list[Path], typer.Option(help="Folder of models; give it again to compare another build.")
    ],
    model: Annotated[str, typer.Option(help="The ensemble.")],
    pictures: Annotated[Path, typer.Option(help="Folder of pictures to send, 16 or more.")],
    output: Annotated[Path, typer.Option(help="Folder for placement.md, .csv and .json.")],
    instances: Annotated[str, typer.Option(help="Instances of each step, e.g. 1,2,4.")] = "1,2",
    concurrency: Annotated[int, typer.Option(min=1, help="Requests under way at a time.")] = 4,
    requests: Annotated[int, typer.Option(min=1, help="Requests per choice and round.")] = 200,
    repeats: Annotated[int, typer.Option(min=2, help="Rounds, each with all choices in turn.")] = 3,
) -> None:
    """JPEG or raw, gRPC, HTTP or shared memory, how many instances: measured here, and one recommended."""
    from detserve_perf.capacity.placement import PlacementSettings, measure_placement
    from detserve_perf.capacity.placement_report import placement_report
    from detserve_perf.commands.sweep import _numbers

    settings = PlacementSettings(concurrency, requests, repeats)
    counts = _numbers(instances, "--instances")
    with phases() as on_progress:
        result = measure_placement(repository, model, pictures, counts, settings, on_progress)
    report = placement_report(result, settings)
    written = report.write(output)
    report.print(Console(markup=False, emoji=False))
    typer.echo(f"written: {', '.join(map(str, written))}")
