"""``detserve perf soak``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from detserve_perf.commands.progress import phases
from detserve_perf.errors import MeasurementError


def soak(
    repository: Annotated[Path, typer.Option(help="Folder of models of the embedded target.")],
    model: Annotated[str, typer.Option(help="The ensemble.")],
    pictures: Annotated[Path, typer.Option(help="Folder of pictures to send, 16 or more.")],
    output: Annotated[Path, typer.Option(help="Folder for soak.md, .csv, .json, .png and soak_samples.csv.")],
    duration: Annotated[str, typer.Option(help="How long, e.g. 90s, 20m, 1h.")] = "20m",
    load: Annotated[float, typer.Option(min=0.01, max=1, help="Part of the capacity.")] = 0.8,
) -> None:
    """Memory of every process of the server under load; exits 1 on growth over 3 % or failed requests."""
    from detserve_core.machine.whole_files import write_whole
    from detserve_perf.accuracy.curves import require_plotting
    from detserve_perf.capacity.soak import read_duration_s, what_is_wrong
    from detserve_perf.capacity.soak import soak as measure
    from detserve_perf.capacity.soak_report import samples_table, soak_report

    require_plotting()
    duration_s = read_duration_s(duration)
    with phases() as on_progress:
        result = measure(
            repository, model, pictures, duration_s=duration_s, load=load, on_progress=on_progress
        )
    report = soak_report(result)
    written = report.write(output)
    samples = output / "soak_samples.csv"
    write_whole(samples, samples_table(result.samples).to_csv().encode())
    report.print(Console(markup=False, emoji=False))
    typer.echo(f"written: {', '.join(map(str, [*written, samples]))}")
    wrong = what_is_wrong(result)
    if wrong:
        raise MeasurementError(wrong)
