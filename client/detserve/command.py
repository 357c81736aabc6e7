"""The root command ``detserve``.

Each package adds its subcommands through the entry points ``detserve.commands``; a subcommand's module is
imported only when it is used or listed.
"""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

from typer import Context, Typer
from typer.core import TyperGroup
from typer.main import get_command

from detserve_core.errors import DetserveError


class _SubcommandsFromEntryPoints(TyperGroup):
    def list_commands(self, ctx: Context) -> list[str]:  # type: ignore[override]
        order = ["inspect", "build", "engine", "serve", "detect", "perf", "doctor"]
        found = entry_points(group="detserve.commands").names
        return sorted(found, key=lambda name: (order.index(name) if name in order else len(order), name))

    def get_command(self, ctx: Context, cmd_name: str):  # type: ignore[no-untyped-def,override]
        for entry in entry_points(group="detserve.commands", name=cmd_name):
            command = get_command(entry.load())
            command.name = cmd_name
            return command
        return None


app = Typer(
    cls=_SubcommandsFromEntryPoints,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="From a detector checkpoint to a measured, guarded Triton deployment.",
)


@app.callback()
def _root() -> None:
    """From a detector checkpoint to a measured, guarded Triton deployment."""


def main() -> None:
    """Run the command line: a user's mistake prints one sentence and exits 1, a bug keeps its traceback."""
    try:
        app()
    except DetserveError as error:
        print(f"detserve: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
