"""``detserve perf accuracy``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress


def accuracy(
    url: Annotated[str, typer.Option(help="The server: grpc://HOST:PORT or http://HOST:PORT.")],
    model: Annotated[str, typer.Option(help="The ensemble to score.")],
    annotations: Annotated[Path, typer.Option(help="COCO instances.json.")],
    images: Annotated[Path, typer.Option(help="Folder of the annotated pictures.")],
    iou: Annotated[
        float | None, typer.Option(min=0, max=1, help="IoU threshold of NMS.", show_default="the card's")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests under way at a time.")] = 4,
    output: Annotated[
        Path | None, typer.Option(help="Folder for accuracy.md, accuracy.csv, accuracy_2.csv, accuracy.json.")
    ] = None,
) -> None:
    """COCO's average precision of a served detector: overall, by size and by class."""
    from detserve_perf.accuracy import accuracy_report, measure_accuracy

    terminal = Console(stderr=True)
    with Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        task = progress.add_task("detecting", total=None)
        result = measure_accuracy(
            url,
            model,
            annotations,
            images,
            iou_threshold=iou,
            concurrency=concurrency,
            on_pictures=lambda count: progress.update(task, total=count),
            on_picture=lambda: progress.advance(task),
        )
    report = accuracy_report(result)
    written = report.write(output) if output is not None else []
    report.print(Console())
    if written:
        typer.echo(f"written: {', '.join(map(str, written))}")
