"""``detserve serve``: the embedded server until Ctrl-C."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from detserve_server.embedded import RunningServer, embedded_server
from detserve_server.ports import GRPC_PORT, HTTP_PORT, METRICS_PORT

_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def serve(
    repository: Annotated[Path, typer.Option(help="Folder of models, as made by detserve build.")],
    grpc_port: Annotated[int, typer.Option(min=1, max=65535)] = GRPC_PORT,
    http_port: Annotated[int, typer.Option(min=1, max=65535)] = HTTP_PORT,
    metrics_port: Annotated[int, typer.Option(min=1, max=65535)] = METRICS_PORT,
    model: Annotated[
        list[str] | None, typer.Option(help="Serve only this model; may be repeated. Default: all.")
    ] = None,
    log_file: Annotated[Path | None, typer.Option(help="Triton's log. Default: a temporary file.")] = None,
) -> None:
    """Serve a model repository on 127.0.0.1 until Ctrl-C.

    For one machine and for tests: production is the container of docker-compose.yml.
    """
    console = Console()
    for number in _ENDING_SIGNALS:
        signal.signal(number, _interrupt_once)
    try:
        with embedded_server(
            repository,
            grpc_port=grpc_port,
            http_port=http_port,
            metrics_port=metrics_port,
            models=model,
            log_file=log_file,
        ) as server:
            console.print(_table(server))
            console.print("Serving until Ctrl-C.")
            server.wait()
    except KeyboardInterrupt:
        console.print("Stopped.")


def _interrupt_once(_number: int, _frame: FrameType | None) -> None:
    """Begin a clean stop which a second signal (``timeout`` sends two) does not break off."""
    for number in _ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _table(server: RunningServer) -> Table:
    table = Table("what", "where", title="detserve", title_justify="left")
    table.add_row("gRPC", server.grpc_url)
    table.add_row("HTTP", server.http_url)
    table.add_row("metrics", server.metrics_url)
    table.add_row("models", "\n".join(server.models))
    table.add_row("log", str(server.log_file))
    return table
