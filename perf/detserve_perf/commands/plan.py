"""``detserve perf plan``."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from detserve_client.commands.security_options import ApiKeyFile, Ca, Certificate
from detserve_perf.commands.progress import phases
from detserve_perf.errors import MeasurementError


def plan(
    rate: Annotated[float, typer.Option(min=0.001, help="Pictures a second, in all.")],
    p99: Annotated[float, typer.Option(min=0.001, help="Milliseconds within which 99 of 100 are answered.")],
    model: Annotated[str, typer.Option(help="The ensemble to send pictures to.")],
    pictures: Annotated[Path, typer.Option(help="Folder of pictures to send, 16 or more.")],
    repository: Annotated[
        Path | None, typer.Option(help="The repository, served here for the measurement.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Instead: a server that runs, http://HOST:PORT or grpc://.")
    ] = None,
    headroom: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of each machine's largest rate to keep free.")
    ] = 0.2,
    duration_s: Annotated[float, typer.Option(min=1, help="Seconds of each rate and round.")] = 10,
    output: Annotated[
        Path | None, typer.Option(help="Folder for plan.md, plan.json, plan.csv, plan_2.csv and plan.png.")
    ] = None,
    api_key_file: ApiKeyFile = None,
    ca: Ca = None,
    certificate: Certificate = None,
) -> None:
    """How many machines a rate needs: finds the largest rate whose p99 holds, in about five minutes."""
    from detserve_core.endpoint import Endpoint
    from detserve_perf.accuracy.curves import require_plotting
    from detserve_perf.capacity.fill import callers_that_fill
    from detserve_perf.capacity.plan import sweep_rates
    from detserve_perf.capacity.plan_report import Wanted, plan_report
    from detserve_perf.load.corpus import check_pictures, named_pictures
    from detserve_perf.report.machine import this_machine
    from detserve_perf.server.access import endpoint_of
    from detserve_perf.server.served import served
    from detserve_perf.server.triton import TritonQueries

    if (repository is None) == (url is None):
        raise MeasurementError(
            "give one of the two: --repository to serve it here, or --url of a server that runs"
        )
    if output is not None:
        require_plotting()
    named = named_pictures(pictures)
    sent = list(named)
    with phases() as on_progress, ExitStack() as stack:
        own = None if repository is None else stack.enter_context(served(repository, model))
        if own is None:
            endpoint = endpoint_of(str(url), api_key_file=api_key_file, ca=ca, certificate=certificate)
        else:
            endpoint = Endpoint.parse(own.grpc_url)
        with TritonQueries(endpoint) as queries:
            machine = this_machine(triton=queries.version())
            callers = callers_that_fill(queries.configs(model))
        check_pictures(named, endpoint, model)
        pid = None if own is None else own.pid
        sweep = sweep_rates(
            endpoint,
            model,
            sent,
            duration_s,
            on_progress,
            cores=machine.cores,
            pid=pid,
            callers=callers,
        )
    server = str(endpoint if repository is None else repository)
    report = plan_report(sweep, Wanted(rate, p99, headroom), sent, machine, server=server, model=model)
    written = report.write(output) if output is not None else []
    report.print(Console(markup=False, emoji=False))
    if written:
        typer.echo(f"written: {', '.join(map(str, written))}")
