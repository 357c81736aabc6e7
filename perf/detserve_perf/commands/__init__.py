"""``detserve perf``."""

from __future__ import annotations

import typer

from detserve_perf.commands.accuracy import accuracy
from detserve_perf.commands.compare import compare
from detserve_perf.commands.overload import overload
from detserve_perf.commands.plan import plan
from detserve_perf.commands.report import report
from detserve_perf.commands.soak import soak
from detserve_perf.commands.sweep import sweep

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Measure a running server: speed and accuracy."
)
app.command()(sweep)
app.command()(accuracy)
app.command()(compare)
app.command()(soak)
app.command()(plan)
app.command()(report)
app.command()(overload)
