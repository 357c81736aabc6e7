"""``detserve inspect``: what a checkpoint is taken for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option, Typer

from detserve_builder.errors import BuildError
from detserve_client.errors import CardError

if TYPE_CHECKING:
    from rich.table import Table

    from detserve_builder.checkpoint import Checkpoint

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
    from rich.text import Text

    from detserve_builder.build import probe_pictures
    from detserve_builder.checkpoint import load_checkpoint
    from detserve_builder.infer_card import families_that_fit, infer_card
    from detserve_builder.prepare import prepare
    from detserve_builder.proof import refuse_impossible

    console = Console()
    loaded = load_checkpoint(checkpoint, structure_only=True)
    try:
        inferred = infer_card(loaded, said=card)
    except CardError:  # what is known helps to write the card that is missing
        fitting = " or ".join(family.name for family, _ in families_that_fit(loaded))
        console.print(_outside(loaded, fitting or "unknown"))
        raise
    table = _outside(loaded, inferred.family)
    if loaded.sha256:
        probe = probe_pictures(inferred)
        prepared = prepare(loaded, inferred, probe)
        table.add_row("batch", prepared.batch_obstacle or "any")
        try:
            refuse_impossible(loaded, inferred, prepared.model, probe)
        except BuildError as refusal:
            table.add_row("a build refuses it", Text(str(refusal), style="red"))
    else:
        table.add_row("weights", f"none: {loaded.path.with_suffix('.weights')} is missing")
    table.add_row("classes", f"{len(inferred.labels)}: {', '.join(inferred.labels[:8])}…")
    console.print(table)
    console.print_json(inferred.to_json())


def _outside(loaded: Checkpoint, family: str) -> Table:
    """Family, inputs and outputs."""
    from rich.table import Table

    table = Table("", "found", title=str(loaded.path), show_header=False)
    table.add_row("family", family)
    for title, tensors in (("input", loaded.inputs), ("output", loaded.outputs)):
        for tensor in tensors:
            table.add_row(title, str(tensor))
    return table
