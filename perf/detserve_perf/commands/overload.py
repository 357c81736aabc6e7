"""``detserve perf overload``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from detserve_client.commands.security_options import ApiKeyFile, Ca, Certificate
from detserve_perf.errors import MeasurementError


def overload(
    url: Annotated[str, typer.Option(help="The server: http://HOST:PORT, or grpc://.")],
    model: Annotated[str, typer.Option(help="The ensemble to send pictures to.")],
    pictures: Annotated[Path, typer.Option(help="Folder of pictures to send, 16 or more.")],
    output: Annotated[Path, typer.Option(help="Folder for overload.md, overload.csv and overload.json.")],
    loads: Annotated[str, typer.Option(help="Offered loads, in multiples of capacity.")] = "1,2,4",
    duration_s: Annotated[float, typer.Option(min=1, help="Seconds of each load and between.")] = 10,
    api_key_file: ApiKeyFile = None,
    ca: Ca = None,
    certificate: Certificate = None,
) -> None:
    """What the server answers, and how soon it refuses the rest, when more is asked than it can do."""
    from detserve_perf.capacity.fill import callers_that_fill
    from detserve_perf.capacity.overload import overload as measure
    from detserve_perf.capacity.overload_report import overload_report
    from detserve_perf.load.corpus import check_pictures, named_pictures
    from detserve_perf.report.machine import this_machine
    from detserve_perf.server.access import endpoint_of
    from detserve_perf.server.triton import TritonQueries

    multiples = _multiples(loads)
    endpoint = endpoint_of(url, api_key_file=api_key_file, ca=ca, certificate=certificate)
    check_pictures(named_pictures(pictures), endpoint, model)
    terminal = Console(stderr=True, emoji=False)
    with terminal.status("starting") as status:
        with TritonQueries(endpoint) as queries:
            machine = this_machine(triton=queries.version())
            callers = callers_that_fill(queries.configs(model))

        def on_progress(phase: str) -> None:
            status.update(Text(phase))

        runs = measure(endpoint, model, pictures, multiples, duration_s, on_progress, callers=callers)
    report = overload_report(runs, url, model, duration_s, callers, machine)
    written = report.write(output)
    report.print(Console(markup=False, emoji=False))
    typer.echo(f"written: {', '.join(map(str, written))}")


def _multiples(text: str) -> list[float]:
    try:
        multiples = [float(part) for part in text.split(",")]
    except ValueError:
        multiples = []
    if not multiples or not all(0 < multiple <= 100 for multiple in multiples):
        raise MeasurementError(f"--loads is {text!r}; expected numbers above 0, e.g. 1,2,4")
    return multiples
