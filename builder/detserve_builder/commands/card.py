"""``detserve card``: what a card may say."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

from typer import BadParameter, Option, Typer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.table import Table

    from detserve_builder.card_fields.rows import FieldRow

app = Typer(add_completion=False)


@app.command()
def card(
    schema: Annotated[bool, Option("--schema", help="every field of every family")] = False,
    as_json: Annotated[bool, Option("--json", help="as a JSON schema, for editors and checks")] = False,
    as_markdown: Annotated[bool, Option("--markdown", help="as docs/card.md")] = False,
) -> None:
    """Describe the fields of a card: type, choices, default, an example and what they mean."""
    from rich.console import Console

    from detserve_builder.card_fields import page
    from detserve_builder.card_fields.json_schema import card_schema
    from detserve_builder.families import FAMILIES

    if not schema:
        raise BadParameter("say what of the card", param_hint="--schema")
    if as_json:
        print(json.dumps(card_schema(), indent=2))
        return
    if as_markdown:
        print(page.page(), end="")
        return
    console = Console(markup=False, emoji=False)
    console.print(_table("every detector", page.card_rows()))
    for family in FAMILIES:
        console.print(_table(f"{family.name}: {family.expects}", page.head_rows(family)))


def _table(title: str, rows: Iterable[FieldRow]) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for heading in ("field", "type", "default", "example", "meaning"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(row.name, row.type, row.default, row.example, row.meaning.replace("``", ""))
    return table
