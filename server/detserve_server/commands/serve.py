"""``detserve serve``: the embedded server until Ctrl-C."""

from __future__ import annotations

import signal
import sys
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.table import Column, Table

from detserve_core.machine.ports import GRPC_PORT, HTTP_PORT, LOOPBACK, METRICS_PORT, choose_ports
from detserve_server.errors import GatewayError
from detserve_server.gateway.guarded import GuardedServer, guarded_server
from detserve_server.rest_process import RunningRest, rest_beside
from detserve_server.triton.detached import announce, builds_of, start_detached, stop_detached
from detserve_server.triton.embedded import RunningServer, embedded_server

_STARTING = "starting; the first time the backend for the steps is compiled, 12 s"
_POLL_S = 0.5
_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_Server = TypeVar("_Server")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def serve(
    repository: Annotated[
        Path | None, typer.Option(help="Folder of models, as made by detserve build.", show_default=False)
    ] = None,
    grpc_port: Annotated[int, typer.Option(min=1, max=65535)] = GRPC_PORT,
    http_port: Annotated[int, typer.Option(min=1, max=65535)] = HTTP_PORT,
    metrics_port: Annotated[int, typer.Option(min=1, max=65535)] = METRICS_PORT,
    model: Annotated[
        list[str] | None, typer.Option(help="Serve only this model; may be repeated. Default: all.")
    ] = None,
    allow_shared_memory: Annotated[
        bool,
        typer.Option(
            "--allow-shared-memory",
            help="Let clients on this machine hand over raw frames in shared memory. They can then have the "
            "server read and write any shared memory of your user.",
        ),
    ] = False,
    log_file: Annotated[Path | None, typer.Option(help="Triton's log. Default: a temporary file.")] = None,
    rest_port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65535,
            help="Answer plain HTTP (detserve rest) too, and show a page to try detectors. With "
            "--gateway-port callers use the gateway's port; this one answers nobody else.",
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open that page in the browser.")] = False,
    gateway_port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, help="Serve through nginx with TLS on this port, gRPC and HTTP alike."
        ),
    ] = None,
    gateway_host: Annotated[str, typer.Option(help="The address the gateway listens on.")] = LOOPBACK,
    tls: Annotated[
        Path | None, typer.Option(metavar="DIR", help="server.crt, server.key; see detserve certs.")
    ] = None,
    keys: Annotated[
        Path | None, typer.Option(metavar="FILE", help="API keys, as made by detserve keys.")
    ] = None,
    require_client_certificate: Annotated[
        bool, typer.Option(help="Accept only certificates signed by an authority in DIR/clients.crt.")
    ] = False,
    access_log: Annotated[
        Path, typer.Option(metavar="FILE", help="The gateway's log, a JSON line a request.")
    ] = Path("access.jsonl"),
    require_signature: Annotated[
        Path | None,
        typer.Option(help="Public key (PEM): serve only what detserve sign signed with its other half."),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return when it serves; it goes on until detserve serve --stop.")
    ] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Stop the detached server.")] = False,
) -> None:
    """Serve a model repository on 127.0.0.1 until Ctrl-C, or --detach it.

    For one machine and for tests: production is the container of docker-compose.yml. With --gateway-port
    Triton itself answers nobody but the gateway, which wants --tls and --keys or client certificates.
    """
    console = Console(markup=False, emoji=False)
    if stop:
        console.print(f"Stopped the detached server, process {stop_detached().pid}.", highlight=False)
        return
    if repository is None:
        raise typer.BadParameter("give the folder of models", param_hint="--repository")
    if show and rest_port is None:
        raise typer.BadParameter("the page is there with --rest-port PORT only", param_hint="--open")
    if detach:
        _detach(console)
        return
    if rest_port is not None:
        choose_ports({"plain HTTP": rest_port})
    builds = builds_of(repository)
    for number in _ENDING_SIGNALS:
        signal.signal(number, _interrupt_once)
    try:
        if gateway_port is not None:
            if tls is None:
                raise GatewayError("--gateway-port needs --tls DIR; make its files with: detserve certs init")
            if allow_shared_memory:
                raise GatewayError("--allow-shared-memory is for clients without a gateway; leave one out")
            starting = guarded_server(
                repository,
                tls=tls,
                keys=keys,
                require_client_certificate=require_client_certificate,
                host=gateway_host,
                port=gateway_port,
                access_log=access_log,
                metrics_port=metrics_port,
                rest_port=rest_port,
                models=model,
                log_file=log_file,
                require_signature=require_signature,
            )
            with _started(starting, console) as guarded:
                rows = _guarded_rows(guarded)
                console.print(_table(rows))
                console.print("Serving until Ctrl-C.")
                announce(sys.argv[1:], rows, repository, builds)
                if show:
                    webbrowser.open(guarded.gateway.http_url)
                guarded.wait()
        alone = embedded_server(
            repository,
            grpc_port=grpc_port,
            http_port=http_port,
            metrics_port=metrics_port,
            models=model,
            allow_shared_memory=allow_shared_memory,
            log_file=log_file,
            require_signature=require_signature,
        )
        with _started(alone, console) as server, rest_beside(server.http_url, rest_port) as rest:
            rows = [*_rows(server), *_rest_rows(rest, "")]
            console.print(_table(rows))
            console.print("Serving until Ctrl-C.")
            announce(sys.argv[1:], rows, repository, builds)
            if show and rest is not None:
                webbrowser.open(f"http://{rest.address}")
            _wait(server, rest)
    except KeyboardInterrupt:
        console.print("Stopped.")


def _detach(console: Console) -> None:
    arguments = [argument for argument in sys.argv[1:] if argument != "--detach"]
    with console.status(_STARTING):
        server, started = start_detached(arguments)
    if not started:
        console.print("It is running already.")
    console.print(_table(server.rows))
    console.print("Serving in the background; stop it with: detserve serve --stop", highlight=False)


@contextmanager
def _started(starting: AbstractContextManager[_Server], console: Console) -> Iterator[_Server]:
    """Enter ``starting``, with something to look at meanwhile."""
    with ExitStack() as stack:
        with console.status(_STARTING):
            server = stack.enter_context(starting)
        yield server


def _interrupt_once(_number: int, _frame: FrameType | None) -> None:
    """Begin a clean stop which a second signal (``timeout`` sends two) does not break off."""
    for number in _ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


Rows = Sequence[tuple[str, str]]


def _guarded_rows(guarded: GuardedServer) -> Rows:
    return (
        ("gRPC", guarded.gateway.grpc_url),
        ("HTTP", guarded.gateway.http_url),
        ("metrics", guarded.triton.metrics_url),
        ("models", "\n".join(guarded.triton.models)),
        ("steps run", guarded.triton.steps_run),
        ("gateway folder", str(guarded.gateway.folder)),
        ("access log", str(guarded.gateway.access_log)),
        ("log", str(guarded.triton.log_file)),
        *_rest_rows(guarded.rest, guarded.gateway.http_url),
    )


def _rows(server: RunningServer) -> Rows:
    return (
        ("gRPC", server.grpc_url),
        ("HTTP", server.http_url),
        ("metrics", server.metrics_url),
        ("models", "\n".join(server.models)),
        ("steps run", server.steps_run),
        ("log", str(server.log_file)),
    )


def _rest_rows(rest: RunningRest | None, gateway_url: str) -> Rows:
    if rest is None:
        return ()
    return (("plain HTTP, page", gateway_url or f"http://{rest.address}"), ("its log", str(rest.log)))


def _wait(server: RunningServer, rest: RunningRest | None) -> NoReturn:
    """Block while both run."""
    while True:
        if rest is not None:
            rest.check_running()
        server.check_running(_POLL_S if rest is not None else None)


def _table(rows: Rows) -> Table:
    table = Table("what", Column("where", overflow="fold"), title="detserve", title_justify="left")
    for row in rows:
        table.add_row(*row)
    return table
