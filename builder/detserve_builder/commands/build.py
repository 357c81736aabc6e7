"""``detserve build``: from a checkpoint to a model repository."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option, Typer

from detserve_builder.triton_config import Target

app = Typer(add_completion=False)


@app.command()
def build(
    checkpoint: Annotated[
        str, Argument(help="an .onnx file, a Darknet .cfg beside its .weights, or a zoo name")
    ],
    name: Annotated[str, Option(help="name of the served detector")],
    repository: Annotated[Path, Option(help="model repository to write into")],
    card: Annotated[Path | None, Option(help="JSON with the card fields you say yourself")] = None,
    target: Annotated[Target, Option(help="where the detector step runs")] = Target.EMBEDDED,
) -> None:
    """Build a detector into a model repository: preprocess, detector, postprocess and their ensemble."""
    from rich.console import Console

    from detserve_builder.build import build as build_repository

    console = Console(stderr=True)
    with console.status("") as status:
        built = build_repository(
            checkpoint,
            name=name,
            repository=repository,
            card_path=card,
            target=target,
            on_step=lambda step: status.update(f"{step} …"),
        )
    if built.batch_obstacle:
        console.print(f"one picture at a time: {built.batch_obstacle}", highlight=False)
    for folder in built.folders:
        print(folder)
