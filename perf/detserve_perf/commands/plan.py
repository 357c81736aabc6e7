"""``detserve perf plan``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from detserve_perf.commands.progress import phases
from detserve_perf.errors import MeasurementError

if TYPE_CHECKING:
    from detserve_perf.capacity.plan import Checked
    from detserve_perf.capacity.service_curve import ServiceCurve
    from detserve_perf.report.machine import Machine

_CURVE_POINT_S = 5.0
_CHECK_S = 40.0


def plan(
    rate: Annotated[float, typer.Option(min=0.001, help="Pictures a second, in all.")],
    p99: Annotated[float, typer.Option(min=0.001, help="Milliseconds within which 99 of 100 are answered.")],
    curve: Annotated[
        Path | None, typer.Option(help="A sweep.json with the service curve.", show_default="measure now")
    ] = None,
    repository: Annotated[Path | None, typer.Option(help="The repository to measure now.")] = None,
    model: Annotated[str | None, typer.Option(help="The ensemble to measure now.")] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Folder of pictures to send; their size gives the network's load.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Measure at three loads what was simulated; takes five minutes.")
    ] = False,
    cameras: Annotated[str, typer.Option(help="Numbers of cameras to answer for.")] = "10,1000,1000000",
    fps: Annotated[float, typer.Option(min=0.001, help="Pictures a second of one camera.")] = 5.0,
    output: Annotated[
        Path | None, typer.Option(help="Folder for plan.md, plan.json, plan.csv and plan_2.csv.")
    ] = None,
) -> None:
    """How many replicas a demand takes, by a queueing simulation on a measured service curve."""
    from detserve_perf.capacity.plan import Demand, mean_bytes, replicas_for
    from detserve_perf.capacity.plan_report import plan_report
    from detserve_perf.capacity.service_curve import curve_from_sweep
    from detserve_perf.commands.sweep import _numbers
    from detserve_perf.load.corpus import read_pictures

    demands = [Demand("--rate", rate)]
    demands += [Demand(f"{n:,} cameras", n * fps) for n in _numbers(cameras, "--cameras")]
    sent = read_pictures(pictures) if pictures is not None else []
    checks: list[Checked] = []
    machine: Machine | None = None
    if curve is not None:
        if check:
            raise MeasurementError("--check measures a server, so it needs --repository, not --curve")
        service, source = curve_from_sweep(curve), str(curve)
    elif repository is None or model is None or not sent:
        raise MeasurementError(
            "no service curve; give --curve sweep.json, or --repository, --model and --pictures to measure it"
        )
    else:
        service, checks, machine = _measured(repository, model, sent, check=check)
        source = f"measured, {_CURVE_POINT_S:g} s a point, {len(sent)} distinct pictures"
    answers = replicas_for(service.replica(), demands, p99, mean_bytes(sent) if sent else None)
    report = plan_report(service, answers, checks, p99_ms=p99, machine=machine, source=source)
    written = report.write(output) if output is not None else []
    report.print(Console(markup=False, emoji=False))
    if written:
        typer.echo(f"written: {', '.join(map(str, written))}")


def _measured(
    repository: Path, model: str, pictures: list[bytes], *, check: bool
) -> tuple[ServiceCurve, list[Checked], Machine]:
    from detserve_core.endpoint import Endpoint
    from detserve_perf.capacity.plan import check as check_loads
    from detserve_perf.capacity.service_curve import measure_curve
    from detserve_perf.load.wire_requests import triton_grpc_requests
    from detserve_perf.report.machine import this_machine
    from detserve_perf.server.served import served
    from detserve_perf.server.triton import TritonQueries

    requests = triton_grpc_requests(model, pictures)
    with phases() as on_progress, served(repository, model) as server:
        endpoint = Endpoint.parse(server.grpc_url)
        with TritonQueries(endpoint) as queries:
            machine = this_machine(triton=queries.version())

        def measure() -> ServiceCurve:
            return measure_curve(server.grpc_url, model, requests, _CURVE_POINT_S, on_progress)

        service = measure()
        checks = (
            check_loads(
                endpoint.address,
                requests,
                service,
                measure,
                _CHECK_S,
                on_progress,
                pid=server.pid,
            )
            if check
            else []
        )
    return service, checks, machine
