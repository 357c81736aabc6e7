"""The fields of a card with who says each of them; guesses stand out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any

from detserve_builder.card_sources import InferredCard, Source

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

DECIDE_GUESSES = (
    "guesses: decide them on pictures with detserve inspect --images DIR [--evaluate LABELS], or say the "
    "fields in a JSON file with --card"
)
GUESS_STYLE = "bold yellow"
_STYLES = {Source.GUESS: GUESS_STYLE, Source.MEASURED: "green"}
_SHOWN = 40  # characters of a value
_LABELS = 6


def card_table(inferred: InferredCard) -> Table:
    """Field, value, source, and what else it could be or by how much it leads."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="card", title_justify="left")
    for heading in ("field", "value", "source", "what else it could be"):
        table.add_column(heading, overflow="fold")
    for names, source, beside in _groups(inferred):
        values = "\n".join(shown_value(inferred, name) for name in names)
        row = ("\n".join(names), values, source.value, beside)
        table.add_row(*map(Text, row), style=_STYLES.get(source, ""))
    return table


def _groups(inferred: InferredCard) -> Iterator[tuple[list[str], Source, str]]:
    """Fields one below the other of which the same is to be said, such as scale, mean and std."""

    def said_of(name: str) -> tuple[Source, str]:
        other = inferred.guesses.get(name)
        return inferred.sources[name], f"or {other}" if other else inferred.leads.get(name, "")

    for key, names in groupby(inferred.sources, key=said_of):
        if key[1]:
            yield list(names), *key
        else:
            yield from (([name], *key) for name in names)


def guess_lines(inferred: InferredCard) -> Iterator[Text]:
    """One line for each guess."""
    from rich.text import Text

    for names, source, beside in _groups(inferred):
        if source is Source.GUESS:
            values = ", ".join(f"{name} {shown_value(inferred, name)}" for name in names)
            yield Text(f"guess: {values}; {beside}", style=GUESS_STYLE)


def shown_value(inferred: InferredCard, name: str) -> str:
    """A field's value on one short line."""
    value: Any = inferred.card.model_dump(mode="json")
    for part in name.split("."):
        value = value.get(part)  # a head leaves out what is as usual
    if name == "labels":
        more = ", …" if len(value) > _LABELS else ""
        return f"{len(value)}: {', '.join(value[:_LABELS])}{more}"
    if isinstance(value, dict):
        return f"({', '.join(value)})"
    text = value if isinstance(value, str) else json.dumps(_rounded(value))
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
