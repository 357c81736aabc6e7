"""``detserve perf compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from detserve_perf.commands.progress import phases


def compare(
    repository: Annotated[Path, typer.Option(help="Folder of models of the embedded target.")],
    model: Annotated[str, typer.Option(help="The ensemble.")],
    pictures: Annotated[Path, typer.Option(help="Folder of pictures to send, 16 or more.")],
    output: Annotated[Path, typer.Option(help="Folder for compare.md, .csv and .json.")],
    peers: Annotated[
        str, typer.Option(help="Which others, separated by commas; none of them: an empty text.")
    ] = "fastapi,litserve,bentoml,pytriton,mosec",
    also: Annotated[
        list[str] | None, typer.Option(help="Another ensemble of the repository to serve beside, e.g. INT8.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight.")] = 4,
    requests: Annotated[int, typer.Option(min=1, help="Requests per server and round.")] = 300,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds, each with all servers in turn.")] = 3,
) -> None:
    """The same ONNX and steps behind detserve and behind what one would use instead, in one table.

    The others are installed on demand into their own environment, which is kept.
    """
    from detserve_perf.speed.compare import ContestSettings
    from detserve_perf.speed.compare import compare as measure
    from detserve_perf.speed.compare_report import compare_report

    settings = ContestSettings(concurrency, requests, repeats)
    names = [name.strip() for name in peers.split(",") if name.strip()]
    with phases() as on_progress:
        result = measure(repository, model, pictures, names, settings, on_progress, also or ())
    report = compare_report(result, settings)
    written = report.write(output)
    report.print(Console(markup=False, emoji=False))
    typer.echo(f"written: {', '.join(map(str, written))}")
