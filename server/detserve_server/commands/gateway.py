"""``detserve gateway``: the files that an nginx of one's own, such as compose's, is given."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console

from detserve_core.machine.whole_files import write_whole
from detserve_server.errors import GatewayError
from detserve_server.gateway.configuration import render as nginx_configuration
from detserve_server.gateway.settings import SETTINGS, GatewaySettings, Upstream
from detserve_server.gateway.shared_secret import new_secret, read_secret, write_secret
from detserve_server.rollout.traffic import NEXT

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def _gateway() -> None:
    """The gateway: nginx between the network and Triton."""


@app.command()
def render(
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Where nginx.conf, secret.conf, triton.env go.")
    ],
    triton: Annotated[
        list[str], typer.Option(metavar="HOST", help="A Triton, on ports 8001 and 8000; may be repeated.")
    ],
    rest: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST:PORT", help="A detserve rest, opened under /v1; may be repeated."),
    ] = None,
    listen: Annotated[str, typer.Option(help="PORT or ADDRESS:PORT of both protocols.")] = "8443",
    tls: Annotated[Path, typer.Option(help="Folder of server.crt and server.key, as nginx sees it.")] = Path(
        "/etc/detserve/tls"
    ),
    keys: Annotated[Path | None, typer.Option(help="keys.conf, as nginx sees it.")] = Path(
        "/etc/detserve/keys/keys.conf"
    ),
    configuration: Annotated[Path, typer.Option(help="The output folder, as nginx sees it.")] = Path(
        "/etc/detserve/gateway"
    ),
    require_client_certificate: Annotated[
        bool, typer.Option(help="Accept only clients with a certificate signed by clients.crt.")
    ] = False,
    access_log: Annotated[
        str, typer.Option(help="Path, or syslog:server=...")
    ] = "/var/log/detserve/access.jsonl",
    max_body_mib: Annotated[int, typer.Option(min=1, help="Largest request.")] = 16,
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="nginx's processes, one for each core that it has.")
    ] = 2,
) -> None:
    """Write nginx.conf, and the secret that Triton wants from the gateway; a secret that exists is kept."""
    try:
        settings = GatewaySettings(
            listen=(listen,),
            upstreams=tuple(Upstream(grpc=f"{host}:8001", http=f"{host}:8000") for host in triton),
            rest=tuple(rest or ()),
            certificate=tls / "server.crt",
            certificate_key=tls / "server.key",
            client_authorities=tls / "clients.crt" if require_client_certificate else None,
            client_crl_conf=tls / "clients.crl.conf" if require_client_certificate else None,
            keys=keys,
            secret=configuration / "secret.conf",
            access_log=access_log,
            max_body_bytes=max_body_mib * 2**20,
            workers=workers,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise GatewayError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if require_client_certificate and Path(os.path.relpath(tls, configuration)) != Path("../tls"):
        raise GatewayError(
            f"got --tls {tls} and --configuration {configuration}, expected X/tls and X/gateway with "
            "client certificates: the revoked ones are looked for in ../tls, seen from nginx.conf"
        )
    triton_file = output / "triton.env"
    secret = read_secret(triton_file) if triton_file.exists() else new_secret()
    write_secret(output / "secret.conf", triton_file, secret)
    write_whole(output / SETTINGS, settings.model_dump_json(indent=2).encode() + b"\n")
    write_whole(output / "nginx.conf", nginx_configuration(settings).encode())
    (output / NEXT).unlink(missing_ok=True)
    Console(markup=False, emoji=False).print(
        f"{output}: nginx.conf and secret.conf for nginx, triton.env for Triton.", highlight=False
    )
