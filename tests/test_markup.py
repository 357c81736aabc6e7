"""Texts of users and of their files are never markup, in any command."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from typer.testing import CliRunner

from detserve_server.commands.keys import app

CHECKOUT = Path(__file__).parents[1]
MODULES = [
    path
    for package in ("client", "builder", "server", "perf", "rest")
    for path in sorted((CHECKOUT / package).rglob("*.py"))
    if "Console(" in path.read_text()
]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_console_takes_no_markup_or_its_module_escapes(path: Path) -> None:
    """Emoji codes are markup, too: ``:car:`` is a good name for a class."""
    text = path.read_text()
    escapes = "import escape" in text or "import Text" in text or "import TextColumn" in text
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Console":
            said = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert said.get("emoji") == "False", f"{path}:{node.lineno}"
            fixed_texts = path.stem in ("accuracy", "canary")  # a progress bar with a word of ours
            assert said.get("markup") == "False" or escapes or fixed_texts, f"{path}:{node.lineno}"


def test_the_name_of_a_file(tmp_path: Path) -> None:
    keys = tmp_path / "[red]:car:.json"
    made = CliRunner(env={"COLUMNS": "400"}).invoke(app, ["create", "--client", "shop", "--keys", str(keys)])
    assert made.exit_code == 0, made.output
    assert f"is in {keys} as a hash" in made.stderr
