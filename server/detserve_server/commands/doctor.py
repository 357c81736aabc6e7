"""``detserve doctor``: what would stop a repository from being served here, and the fix."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from detserve_core.machine.ports import GRPC_PORT, HTTP_PORT, METRICS_PORT
from detserve_server.doctor.check import Check
from detserve_server.doctor.checks import check_signature, run_checks

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def doctor(
    repository: Annotated[
        Path | None, typer.Option(help="Folder of models, as made by detserve build.")
    ] = None,
    grpc_port: Annotated[int, typer.Option(min=1, max=65535)] = GRPC_PORT,
    http_port: Annotated[int, typer.Option(min=1, max=65535)] = HTTP_PORT,
    metrics_port: Annotated[int, typer.Option(min=1, max=65535)] = METRICS_PORT,
    image: Annotated[
        str, typer.Option(help="Container image that is to serve it; the embedded server by default.")
    ] = "",
    require_signature: Annotated[
        Path | None, typer.Option(help="Public key (PEM) that the repository must be signed with.")
    ] = None,
    compose: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="docker-compose.yml that is to come up here, instead of --repository."
        ),
    ] = None,
    probe_batcher: Annotated[
        bool,
        typer.Option(
            help="Instead: ask the embedded server, or --image by docker, whether its batcher stalls; 10 s."
        ),
    ] = False,
) -> None:
    """Check what would stop a repository from being served here, in an image or by compose; then exit 1.

    The compose file says itself which repository and which image it serves.
    """
    if probe_batcher:
        if repository is not None or compose is not None:
            raise typer.BadParameter("--probe-batcher asks a server, not a repository; give it --image alone")
        from detserve_server.doctor.batcher import check_batcher

        checks = [check_batcher(image)]
    elif compose is not None and repository is None:
        from detserve_server.doctor.compose_checks import run_compose_checks

        checks = run_compose_checks(compose, require_signature)
    elif repository is not None and compose is None:
        ports = {"gRPC": grpc_port, "HTTP": http_port, "metrics": metrics_port}
        checks = run_checks(repository, ports, image)
        if image:
            from detserve_server.doctor.batcher import how_to_ask

            checks.append(how_to_ask(image))
        if require_signature is not None:
            checks.append(check_signature(repository, require_signature))
    else:
        raise typer.BadParameter("give either --repository or --compose")
    Console(emoji=False).print(_table(checks))
    if any(check.stops and not check.passed for check in checks):
        raise typer.Exit(1)


def _table(checks: list[Check]) -> Table:
    table = Table()
    for heading in ("check", "found", "fix"):
        table.add_column(heading, overflow="fold")
    for check in checks:
        color = "green" if check.passed else "red" if check.stops else "yellow"
        name, found, fix = (escape(_printable(text)) for text in (check.name, check.found, check.fix))
        table.add_row(name, f"[{color}]{found}[/]", fix)
    return table


def _printable(text: str) -> str:
    """With what no terminal shows, such as a file name's stray bytes, written out."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
