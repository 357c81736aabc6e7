"""``detserve perf accuracy``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from detserve_client.commands.security_options import ApiKeyFile, Ca, Certificate


def accuracy(
    url: Annotated[str, typer.Option(help="The server: grpc://HOST:PORT or http://HOST:PORT.")],
    model: Annotated[str, typer.Option(help="The ensemble to score.")],
    dataset: Annotated[
        Path,
        typer.Option(
            help="A COCO json file, a data.yaml or a folder with images/ and labels/ (YOLO), or one with "
            "Annotations/*.xml (Pascal VOC)."
        ),
    ],
    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the pictures.", show_default="where the format has them; COCO: images/ or beside"
        ),
    ] = None,
    iou: Annotated[
        float | None, typer.Option(min=0, max=1, help="IoU threshold of NMS.", show_default="the card's")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight.")] = 4,
    against: Annotated[
        str | None, typer.Option(help="Another ensemble: score it too, and compare picture by picture.")
    ] = None,
    against_url: Annotated[
        str | None, typer.Option(help="The other ensemble's server.", show_default="--url")
    ] = None,
    worst: Annotated[
        int, typer.Option(min=0, help="With --against, how many pictures that differ most to list and draw.")
    ] = 8,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for accuracy.md, .csv, .json, accuracy_curves.png and worst/*.jpg."),
    ] = None,
    api_key_file: ApiKeyFile = None,
    ca: Ca = None,
    certificate: Certificate = None,
) -> None:
    """COCO's average precision of a served detector, overall, by size and by class; or of two, compared."""
    from detserve_perf.accuracy.served_accuracy import ServedModel, measure_accuracy
    from detserve_perf.accuracy.served_accuracy_report import accuracy_report
    from detserve_perf.server.access import endpoint_of

    if against_url is not None and against is None:
        raise typer.BadParameter("it needs --against, the ensemble there", param_hint="--against-url")
    if output is not None:
        _require_figures(pictures=against is not None and worst > 0)
    terminal = Console(stderr=True, emoji=False)
    with Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        task = progress.add_task("detecting", total=None)
        result = measure_accuracy(
            ServedModel(url, model),
            dataset,
            images,
            iou_threshold=iou,
            concurrency=concurrency,
            against=ServedModel(against_url or url, against) if against is not None else None,
            worst=worst,
            access=partial(endpoint_of, api_key_file=api_key_file, ca=ca, certificate=certificate),
            on_pictures=lambda count: progress.update(task, total=count),
            on_picture=lambda: progress.advance(task),
        )
    report = accuracy_report(result)
    written = report.write(output) if output is not None else []
    report.print(Console(markup=False, emoji=False))
    if written:
        typer.echo(f"written: {', '.join(map(str, written))}")


def _require_figures(*, pictures: bool) -> None:
    """Say that a library is missing before the server is asked, not after."""
    from detserve_core.pictures.drawing import require_drawing
    from detserve_perf.accuracy.curves import require_plotting

    require_plotting()
    if pictures:
        require_drawing()
