"""``detserve rollout``: a new server takes over behind the gateway, or does not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def rollout(
    context: typer.Context,
    gateway: Annotated[Path, typer.Option(help="Folder of detserve gateway render, or of serve.")],
    to_grpc: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="gRPC of the new server.")] = None,
    to_http: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="HTTP of the new server.")] = None,
    share: Annotated[float, typer.Option(min=0.001, max=0.9, help="Its first share of requests.")] = 0.1,
    watch_s: Annotated[float, typer.Option(min=0, help="For how long.")] = 60,
    max_failed: Annotated[float, typer.Option(min=0, max=1, help="Largest share of failed requests.")] = 0.01,
    access_log: Annotated[
        Path | None, typer.Option(help="The gateway's log, as seen from here.", show_default="the settings'")
    ] = None,
    reload_command: Annotated[
        str, typer.Option("--reload", help="Command that reloads an nginx that is not on this machine.")
    ] = "",
    ready_timeout_s: Annotated[float, typer.Option(min=0, help="How long it may load and warm up.")] = 120,
    roll_back: Annotated[
        bool, typer.Option("--roll-back", help="Give all traffic to the servers before the last roll-out.")
    ] = False,
) -> None:
    """Compare a new server with the old one, give it a share of the traffic, then all of it; or roll back.

    Every other option goes to detserve canary, which does the comparing: --model and --pictures are needed.
    Exit 1 when the new server is held back; the old one has all the traffic then.
    """
    from detserve_server.errors import RolloutError
    from detserve_server.gateway.settings import Upstream
    from detserve_server.rollout.rollout import canary_gate, roll_out, wait_until_ready
    from detserve_server.rollout.rollout import roll_back as back
    from detserve_server.rollout.stop import stop_wishes
    from detserve_server.rollout.traffic import Gateway

    behind = Gateway(gateway.absolute(), reload_command)
    if roll_back:
        with stop_wishes():
            servers = back(behind)
        typer.echo(f"all traffic goes to {', '.join(one.grpc for one in servers)}")
        return
    if to_grpc is None or to_http is None:
        raise typer.BadParameter("give --to-grpc and --to-http, or --roll-back", param_hint="--to-grpc")
    try:
        new = Upstream(grpc=to_grpc, http=to_http)
    except ValidationError as error:
        raise RolloutError(f"the new server: {error.errors()[0]['msg']}") from None
    settings = behind.settings()
    # The last of two options wins, so --old and --new may be given, e.g. for servers behind other gateways.
    canary = ["--old", f"grpc://{settings.upstreams[0].grpc}", "--new", f"grpc://{new.grpc}", *context.args]
    with stop_wishes() as stop:
        wait_until_ready(new, ready_timeout_s, stop)
        roll_out(
            behind,
            [new],
            gate=lambda: canary_gate(canary, behind.secret(), stop),
            share=share,
            watch_s=watch_s,
            max_failed=max_failed,
            access_log=access_log or Path(settings.access_log),
            on_step=typer.echo,
            stop=stop,
        )
