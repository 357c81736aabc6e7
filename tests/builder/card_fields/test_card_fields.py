"""What is said of the fields of a card: all of it, and as the models have it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field
from typer.testing import CliRunner

from detserve_builder.card_fields import page
from detserve_builder.card_fields.json_schema import card_schema
from detserve_builder.card_fields.rows import field_rows
from detserve_builder.commands.card import app
from detserve_builder.families import FAMILIES

DOCS = Path(__file__).parents[3] / "docs/card.md"


def test_the_page_is_of_today() -> None:
    command = "detserve card --schema --markdown > docs/card.md"
    assert DOCS.read_text() == page.page(), f"docs/card.md is old; run: {command}"


def test_every_field_says_what_it_means() -> None:
    rows = {row.name: row for row in page.card_rows()}
    rows |= {f"{family.name}: {row.name}": row for family in FAMILIES for row in page.head_rows(family)}
    silent = [name for name, row in rows.items() if not row.meaning]
    assert not silent, f"{silent}: name the field in its model's docstring, or give it a description"
    for row in rows.values():
        json.loads(row.example)


class Inner(BaseModel):
    """The inner one."""

    sides: tuple[int, int] = Field(description="Two sides.")


class Outer(BaseModel):
    """``way``: how it is done. ``parts`` are what it is done to; ``share`` is of the whole."""

    way: Literal["fast", "slow"] = "slow"
    parts: list[Inner]
    share: float | None = Field(None, ge=0, le=1)


def test_rows_of_a_model() -> None:
    way, parts, sides, share = field_rows(Outer)
    assert (way.type, way.default, way.meaning) == ("one of fast, slow", '"slow"', "How it is done.")
    assert (parts.type, parts.default) == ("list of object", "required")
    assert (sides.name, sides.type, sides.meaning) == ("parts[].sides", "[integer, integer]", "Two sides.")
    assert share.type == "number >= 0 and <= 1 or null"
    assert Outer.model_validate({"parts": json.loads(parts.example)}).way == json.loads(way.example)


def test_the_schema_refers_to_nothing_that_it_lacks() -> None:
    schema = json.dumps(card_schema())
    defined = card_schema()["$defs"]
    referred = {part.partition('"')[0] for part in schema.split('"#/$defs/')[1:]}
    assert referred
    assert referred <= set(defined)
    assert [part["if"]["properties"]["family"]["const"] for part in card_schema()["allOf"]] == [
        family.name for family in FAMILIES
    ]


def test_the_command() -> None:
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["--schema"]).stdout
    assert all(f"{family.name}: " in shown for family in FAMILIES)
    assert "head.class_columns" in shown
    assert json.loads(CliRunner().invoke(app, ["--schema", "--json"]).stdout) == card_schema()
    assert CliRunner().invoke(app, ["--schema", "--markdown"]).stdout == page.page()
    assert CliRunner().invoke(app, []).exit_code == 2
