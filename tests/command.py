"""``detserve`` as a user runs it, in this process: its own process takes two seconds to import."""

from __future__ import annotations

from subprocess import CompletedProcess

from typer.testing import CliRunner

from detserve.command import app
from detserve_core.errors import DetserveError


def detserve(*arguments: object, **environment: str) -> CompletedProcess[str]:
    """Run a command; a bug is raised, a user's mistake is the sentence and the 1 of the root command."""
    given = [*map(str, arguments)]
    result = CliRunner(env={"COLUMNS": "200", **environment}).invoke(app, given, prog_name="detserve")
    said, error = result.stderr, result.exception
    if isinstance(error, DetserveError):
        said += f"detserve: {error}\n"
    elif error is not None and not isinstance(error, SystemExit):
        raise error
    return CompletedProcess(["detserve", *given], result.exit_code, result.stdout, said)
