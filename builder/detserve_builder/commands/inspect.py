"""``detserve inspect``: what a checkpoint is taken for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option, Typer

from detserve_builder.commands.card_table import card_table
from detserve_builder.commands.input_size import INPUT_SIZE_HELP, input_size
from detserve_builder.errors import BuildError
from detserve_client.errors import CardError, OutputError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from detserve_builder.card_search.decide import Decision
    from detserve_builder.card_sources import InferredCard
    from detserve_builder.checkpoint import Checkpoint

app = Typer(add_completion=False)


@app.command()
def inspect(
    checkpoint: Annotated[
        str, Argument(help="an .onnx file, a Darknet .cfg beside its .weights, or a zoo name")
    ],
    card: Annotated[Path | None, Option(help="JSON with the card fields you say yourself")] = None,
    size: Annotated[str | None, Option("--input-size", help=INPUT_SIZE_HELP)] = None,
    images: Annotated[
        Path | None, Option(help="folder of pictures that decide the guesses of the preprocessing")
    ] = None,
    evaluate: Annotated[
        Path | None, Option(help="labels of --images: COCO, YOLO or VOC; decide by AP, and the classes too")
    ] = None,
    output: Annotated[Path | None, Option(help="write the card to this file")] = None,
) -> None:
    """Show the family, the inputs and outputs and the card a checkpoint is taken for."""
    from rich.console import Console
    from rich.text import Text

    from detserve_builder.build import probe_pictures
    from detserve_builder.checkpoint import load_checkpoint
    from detserve_builder.infer_card import families_that_fit, read_card
    from detserve_builder.prepare import prepare

    if evaluate and not images:
        raise BuildError("--evaluate names labels without their pictures; name the folder with --images")
    console = Console(markup=False, emoji=False)
    loaded = load_checkpoint(checkpoint, structure_only=images is None)
    try:
        inferred = read_card(loaded, said=card, input_wh=input_size(size))
    except CardError:  # what is known helps to write the card that is missing
        fitting = " or ".join(family.name for family, _ in families_that_fit(loaded))
        console.print(_outside(loaded, fitting or "unknown"))
        raise
    table = _outside(loaded, inferred.card.family)
    if loaded.sha256:
        prepared = prepare(loaded, inferred.card, probe_pictures(inferred.card))
        table.add_row("batch", Text(prepared.batch_obstacle or "any"))
    else:
        table.add_row("weights", Text(f"none: {loaded.path.with_suffix('.weights')} is missing"))
    console.print(table)
    sentence = ""
    if images:
        decision = _decide(loaded, inferred, images, evaluate)
        inferred, sentence = decision.inferred, decision.sentence
    console.print(card_table(inferred))
    if sentence:
        console.print(Text(sentence), soft_wrap=True)
    console.print_json(inferred.card.to_json())
    if output:
        _write(output, inferred)


def _decide(loaded: Checkpoint, inferred: InferredCard, images: Path, evaluate: Path | None) -> Decision:
    """Under a progress bar."""
    from rich.console import Console
    from rich.progress import Progress, TimeElapsedColumn

    from detserve_builder.card_search.decide import decide_card

    console = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:2], "{task.completed} of about {task.total} runs", TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("trying preprocessings", total=None)
        return decide_card(
            loaded,
            inferred,
            images,
            evaluate,
            lambda done, total: progress.update(task, completed=done, total=max(done, total)),
        )


def _write(output: Path, inferred: InferredCard) -> None:
    try:
        output.write_text(inferred.card.to_json())
    except OSError as error:
        raise OutputError(f"{output}: the card cannot be written ({error.strerror})") from None


def _outside(loaded: Checkpoint, family: str) -> Table:
    """Family, inputs and outputs; names of the graph are no markup."""
    from rich.table import Table
    from rich.text import Text

    table = Table("", "found", title=Text(str(loaded.path)), show_header=False)
    table.add_row("family", family)
    for title, tensors in (("input", loaded.inputs), ("output", loaded.outputs)):
        for tensor in tensors:
            table.add_row(title, Text(str(tensor)))
    return table
