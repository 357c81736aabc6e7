"""``detserve rest``: plain HTTP in front of a server, until Ctrl-C."""

from __future__ import annotations

import os
import socket
import sys
import webbrowser
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
import uvicorn
from rich.console import Console

from detserve_client.commands.security_options import ApiKeyFile, Ca, Certificate
from detserve_client.commands.signals import told_to_stop
from detserve_core.contract import GATEWAY_SECRET
from detserve_core.endpoint import Endpoint
from detserve_core.errors import PortTaken
from detserve_core.machine.ports import HTTP_PORT, LOOPBACK, REST_PORT
from detserve_core.security import AsTheGateway, Security
from detserve_rest.app import application
from detserve_rest.service import Settings

_DEFAULT_URL = f"http://localhost:{HTTP_PORT}"
_BACKLOG = 2048
_STOP_S = 10
_KEEP_ALIVE_S = 75  # as the gateway's, which must not find a connection closed that it means to use

app = typer.Typer(add_completion=False)


@app.command()
def rest(
    url: Annotated[
        str,
        typer.Option(
            help="Where the server listens: http://HOST:PORT or grpc://HOST:PORT, TLS: https, grpcs. HTTP "
            "takes less of the processor."
        ),
    ] = _DEFAULT_URL,
    port: Annotated[int, typer.Option(min=1, max=65535)] = REST_PORT,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = LOOPBACK,
    allow_urls: Annotated[
        bool,
        typer.Option(
            "--allow-urls",
            help="Fetch pictures for callers from the internet; private addresses are never asked.",
        ),
    ] = False,
    deepstack_model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The detector of /v1/vision/detection. Without it: the only one there is.",
        ),
    ] = None,
    api_key_file: ApiKeyFile = None,
    ca: Ca = None,
    certificate: Certificate = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Answer plain HTTP in front of a server until Ctrl-C.

    For one machine: callers need no key. A gateway in front of it brings TLS, keys and limits; where
    $DETSERVE_GATEWAY_SECRET is set, requests without that secret are refused.
    """
    secret = os.environ.get(GATEWAY_SECRET)
    secret = None if secret in (None, "", "none") else secret
    settings = Settings(
        endpoint=_endpoint(url, secret, api_key_file, ca, certificate),
        allow_urls=allow_urls,
        deepstack_model=deepstack_model,
        secret=secret,
    )
    console = Console(markup=False, emoji=False)
    with told_to_stop(), _listening(host, port) as listening:
        shown = f"[{host}]" if ":" in host else host
        console.print(f"http://{shown}:{port} in front of {settings.endpoint}", highlight=False)
        _say_where_nobody_listens(settings.endpoint, console)
        console.print("Serving until Ctrl-C.")
        sys.stdout.flush()
        if open_page:
            webbrowser.open(f"http://{shown}:{port}/")
        uvicorn.Server(_configuration(settings)).run(sockets=[listening])
        console.print("Stopped.")


def _endpoint(
    url: str, secret: str | None, api_key_file: Path | None, ca: Path | None, certificate: Path | None
) -> Endpoint:
    """The server, with what it is shown: a gateway a key, a Triton behind a gateway the gateway's secret."""
    endpoint = Endpoint.parse(url)
    if endpoint.tls or (api_key_file, ca, certificate) != (None, None, None):
        return endpoint.secured(
            Security.from_environment(api_key_file=api_key_file, ca=ca, certificate=certificate)
        )
    return endpoint if secret is None else replace(endpoint, security=AsTheGateway(secret=secret))


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens; raises :class:`PortTaken` where it cannot."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # asyncio sends without delay only where the protocol is said.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError as error:
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise PortTaken(
            f"{host}:{port} cannot be listened on ({reason}); stop what listens there or give another --port "
            "or --host"
        ) from None
    return listening


def _say_where_nobody_listens(endpoint: Endpoint, console: Console) -> None:
    """Say so where nobody listens yet."""
    try:
        socket.create_connection((endpoint.host, endpoint.port), timeout=1).close()
    except OSError as error:
        reason = error.strerror or error
        console.print(
            f"no server answers at {endpoint} ({reason}); requests get status 503 until one does",
            highlight=False,
        )


def _configuration(settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        application(settings),
        loop="auto",
        http="httptools",
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_STOP_S,
    )
