"""docs/card.md: every field of every card."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator

from detserve_builder.card_fields.rows import FieldRow, field_rows
from detserve_builder.families import FAMILIES, Family
from detserve_core.card import Card

_BEGINNING = """\
# Card fields

Written by `detserve card --schema --markdown`.

A card says what must be known about a detector beside its weights. `detserve inspect X.onnx` shows the card
and where each field comes from: the graph, the file's metadata, you, pictures, or a guess. Write what you
know better into a JSON file of the fields concerned. Put it beside the checkpoint as `card.json`, or give it
with `--card`. `detserve inspect X.onnx --images DIR --output card.json` lets pictures decide.

"""


def page() -> str:
    """The whole page, Markdown."""
    return _BEGINNING + "\n".join(_parts()) + "\n"


def described(family: Family) -> str:
    """The first sentence of the family's own description."""
    module = sys.modules[family.recognise.__module__]
    return " ".join((family.about or inspect.getdoc(module) or "").partition("\n\n")[0].split())


def card_rows() -> list[FieldRow]:
    """The fields that every card has."""
    return list(field_rows(Card))


def head_rows(family: Family) -> list[FieldRow]:
    """The fields of a family's head."""
    return list(field_rows(family.head, "head."))


def _parts() -> Iterator[str]:
    yield "## Every detector\n"
    yield from _table(card_rows())
    for family in FAMILIES:
        yield f"\n## {family.name}\n\n{described(family)}\n\nRecognised by: {family.expects}."
        if family.only_when_named:
            yield f'\nOnly where the card says `"family": "{family.name}"`.'
        rows = head_rows(family)
        yield "\nIts head:\n" if rows else "\nIts head has no fields."
        yield from _table(rows)


def _table(rows: Iterable[FieldRow]) -> Iterator[str]:
    rows = list(rows)
    if rows:
        yield "| field | type | default | example | meaning |"
        yield "|---|---|---|---|---|"
    for row in rows:
        cells = (f"`{row.name}`", row.type, f"`{row.default}`", f"`{row.example}`", row.meaning)
        yield "| " + " | ".join(cell.replace("``", "`").replace("|", "\\|") for cell in cells) + " |"
