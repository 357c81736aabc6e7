"""Pages written from the code while mkdocs builds: one for each command, and the tree of errors."""

from __future__ import annotations

import importlib
import inspect
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import mkdocs_gen_files
from typer import Context
from typer.cli import get_docs_for_click
from typer.main import get_command

from detserve.command import COMMANDS, app
from detserve_core.errors import DetserveError

CHECKOUT = Path(__file__).parents[1]

COMMANDS_PAGE = """\
# Command line

`detserve COMMAND --help` shows the same in the terminal.

"""

ERRORS_PAGE = """\
# Errors

What you can fix is a `DetserveError`. Its text is one sentence: what was given, what was expected, how to fix
it. The command prints it and exits 1. Any other exception is a bug of detserve and keeps its traceback.

What is sent again by itself: [Python API](python.md#retries-and-timeouts).

"""


def write_commands() -> None:
    """Write reference/cli/index.md and a page beside it for each command."""
    ctx = Context(get_command(app), info_name="detserve")
    nav, rows = ["- [Command line](index.md)"], defaultdict(list)
    for name, entry in COMMANDS.items():
        nav.append(f"- [{name}]({name}.md)")
        rows[entry.group].append(f"| [`detserve {name}`]({name}.md) | {entry.help} |")
        command = get_command(importlib.import_module(entry.module).app)
        text = get_docs_for_click(obj=command, ctx=ctx, name=name, call_prefix="detserve")
        with mkdocs_gen_files.open(f"reference/cli/{name}.md", "w") as page:
            page.write(f"{text}\n**Example**:\n\n```console\n$ {entry.example}\n```\n")
    tables = ["\n".join([f"## {group}", "", "| | |", "|---|---|", *lines]) for group, lines in rows.items()]
    with mkdocs_gen_files.open("reference/cli/index.md", "w") as page:
        page.write("\n\n".join([COMMANDS_PAGE, *tables]) + "\n")
    with mkdocs_gen_files.open("reference/cli/commands.md", "w") as page:
        page.write("\n".join(nav) + "\n")


def lines_of(error: type[DetserveError], depth: int = 0) -> Iterator[str]:
    """The error and all below it, as a nested list."""
    meaning = (inspect.getdoc(error) or "").splitlines()[0]
    yield f"{'    ' * depth}- `{error.__name__}`: {meaning}"
    for below in sorted(error.__subclasses__(), key=lambda kind: kind.__name__):
        yield from lines_of(below, depth + 1)


def write_errors() -> None:
    """Write reference/errors.md from every module ``errors`` of every package."""
    for path in sorted(CHECKOUT.glob("*/detserve_*/**/errors.py")):
        importlib.import_module(".".join(path.relative_to(CHECKOUT).with_suffix("").parts[1:]))
    with mkdocs_gen_files.open("reference/errors.md", "w") as page:
        page.write(ERRORS_PAGE + "\n".join(lines_of(DetserveError)) + "\n")


write_commands()
write_errors()
