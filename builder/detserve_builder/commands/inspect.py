"""``detserve inspect``: what a checkpoint is taken for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option, Typer

from detserve_builder.commands.card_table import DECIDE_GUESSES, card_table
from detserve_builder.commands.input_size import INPUT_SIZE_HELP, input_size
from detserve_builder.commands.zoo import download_first
from detserve_builder.errors import BuildError, naming_the_card
from detserve_core.errors import CardError, OutputError

if TYPE_CHECKING:
    from rich.table import Table

    from detserve_builder.card_search.decide import Decision
    from detserve_builder.card_sources import InferredCard
    from detserve_builder.checkpoint import Checkpoint
    from detserve_core.card import Card

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
    output: Annotated[Path | None, Option(help="file for the whole card, without its guesses")] = None,
) -> None:
    """Show the family, the inputs, outputs and card that are read from a checkpoint."""
    from rich.console import Console

    from detserve_builder.checkpoint import load_checkpoint
    from detserve_builder.infer_card import families_that_fit, read_card

    if evaluate and not images:
        raise BuildError("--evaluate names labels without their pictures; name the folder with --images")
    console = Console(markup=False, emoji=False)
    download_first(checkpoint)
    loaded = load_checkpoint(checkpoint, structure_only=images is None)
    try:
        inferred = read_card(loaded, said=card, input_wh=input_size(size))
    except CardError:  # what is known helps to write the card that is missing
        fitting = " or ".join(family.name for family, _ in families_that_fit(loaded))
        console.print(_outside(loaded, fitting or "unknown"))
        raise
    sentence = ""
    if images:
        decision = _decide(loaded, inferred, images, evaluate)
        inferred, sentence = decision.inferred, decision.sentence
    table = _outside(loaded, inferred.card.family)
    with naming_the_card(card or loaded.card_path, loaded.path):
        _add_what_a_build_says(table, loaded, inferred.card)
    console.print(str(loaded.path), soft_wrap=True, highlight=False)
    console.print(table)
    console.print(card_table(inferred))
    if loaded.card_note:
        console.print(loaded.card_note, soft_wrap=True, highlight=False)
    if sentence:
        console.print(sentence, soft_wrap=True, highlight=False)
    if inferred.guesses and not images:
        console.print(DECIDE_GUESSES, soft_wrap=True, highlight=False)
    if output:
        _write(output, inferred)


def _decide(loaded: Checkpoint, inferred: InferredCard, images: Path, evaluate: Path | None) -> Decision:
    """Under a progress bar."""
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    from detserve_builder.card_search.decide import decide_card

    console = Console(stderr=True, emoji=False)
    columns = (
        *Progress.get_default_columns()[:2],
        TextColumn("{task.completed} of about {task.total} runs"),
        TimeElapsedColumn(),
    )
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
    """The card without its guesses: they are guessed again, and shown, wherever the file is used."""
    fields = inferred.card.model_dump(mode="json")
    for name in inferred.guesses:
        *inside, field = name.split(".")
        (fields[inside[0]] if inside else fields).pop(field, None)
    try:
        output.write_text(json.dumps(fields, indent=2) + "\n")
    except OSError as error:
        raise OutputError(f"{output}: the card cannot be written ({error.strerror})") from None
    left_out = f", without what is guessed: {', '.join(inferred.guesses)}" if inferred.guesses else ""
    print(f"{output}{left_out}")


def _outside(loaded: Checkpoint, family: str) -> Table:
    """Family, inputs and outputs."""
    from rich.table import Table

    table = Table("", "found", show_header=False)
    table.add_row("family", family)
    for title, tensors in (("input", loaded.inputs), ("output", loaded.outputs)):
        for tensor in tensors:
            table.add_row(title, str(tensor))
    return table


def _add_what_a_build_says(table: Table, loaded: Checkpoint, card: Card) -> None:
    """Whether pictures can be batched, and what is refused."""
    from rich.text import Text

    from detserve_builder.build import probe_pictures
    from detserve_builder.preparation.prepare import prepare
    from detserve_builder.preparation.proof import doubts, refuse_impossible

    if not loaded.sha256:
        table.add_row("weights", f"none: {loaded.path.with_suffix('.weights')} is missing")
        return
    probe = probe_pictures(card)
    prepared = prepare(loaded, card, probe)
    one = f"one picture at a time: {prepared.batch_obstacle}"
    table.add_row("batch", one if prepared.batch_obstacle else "any")
    try:
        refuse_impossible(loaded, card, prepared.model, probe)
    except BuildError as refusal:
        table.add_row("a build refuses it", Text(str(refusal), style="red"))
        return
    if doubt := doubts(prepared.model, probe):
        table.add_row("looks odd", Text(doubt, style="yellow"))
