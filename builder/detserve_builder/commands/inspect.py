"""``detserve inspect``: what a checkpoint is taken for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option, Typer

app = Typer(add_completion=False)


@app.command()
def inspect(
    checkpoint: Annotated[
        str, Argument(help="an .onnx file, a Darknet .cfg beside its .weights, or a zoo name")
    ],
    card: Annotated[Path | None, Option(help="JSON with the card fields you say yourself")] = None,
) -> None:
    """Show the family, the inputs and outputs and the card a checkpoint is taken for."""
    from rich.console import Console
    from rich.table import Table

    from detserve_builder.build import probe_pictures
    from detserve_builder.checkpoint import load_checkpoint
    from detserve_builder.infer_card import infer_card
    from detserve_builder.prepare import prepare

    loaded = load_checkpoint(checkpoint)
    inferred = infer_card(loaded, said=card)
    prepared = prepare(loaded, inferred, probe_pictures(inferred))
    table = Table("", "found", title=str(loaded.path), show_header=False)
    table.add_row("family", inferred.family)
    for title, tensors in (("input", loaded.inputs), ("output", loaded.outputs)):
        for tensor in tensors:
            table.add_row(title, str(tensor))
    table.add_row("batch", prepared.batch_obstacle or "any")
    table.add_row("classes", f"{len(inferred.labels)}: {', '.join(inferred.labels[:8])}…")
    console = Console()
    console.print(table)
    console.print_json(inferred.to_json())
