"""``detserve zoo``: detectors that can be had by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Typer

if TYPE_CHECKING:
    from detserve_builder.zoo.catalogue import Measured

app = Typer(add_completion=False, no_args_is_help=True, help="Detectors by name: what there is, and get one.")


@app.command("list")
def list_() -> None:
    """List the detectors of the zoo, with their licence and the average precision measured here."""
    from rich.console import Console
    from rich.table import Table

    from detserve_builder.zoo.catalogue import CATALOGUE
    from detserve_builder.zoo.committed import COMMITTED
    from detserve_builder.zoo.get import is_here, size_bytes

    table = Table("name", "finds", "MB", "AP", "AP50", "licence", "here")
    for name, detector in CATALOGUE.items():
        measured = detector.measured
        ap, ap50 = (f"{measured.ap:.3f}", f"{measured.ap50:.3f}") if measured else ("-", "-")
        megabytes, here = f"{size_bytes(name) / 1e6:.1f}", "yes" if is_here(name) else "no"
        table.add_row(name, detector.finds, megabytes, ap, ap50, detector.licence, here)
    for name in COMMITTED:
        table.add_row(name, "5 kinds of codes", "-", "-", "-", "Apache-2.0", "yes")
    console = Console(markup=False, emoji=False)
    console.print(table)
    for line in sorted({_where(detector.measured) for detector in CATALOGUE.values() if detector.measured}):
        console.print(line, highlight=False)
    console.print("get one: detserve zoo get NAME; build one: detserve build NAME", highlight=False)


def _where(measured: Measured) -> str:
    return f"AP of the served detector on {measured.pictures}; {measured.machine}, {measured.date}."


@app.command("get")
def get_(name: Annotated[list[str], Argument(help="detectors of the zoo")]) -> None:
    """Download detectors into the cache folder, and print the file that detserve build takes.

    A download that broke off goes on where it was. Proxies are those of HTTPS_PROXY and NO_PROXY;
    DETSERVE_ZOO_URL names a mirror that holds NAME/FILE, a folder as file:///... too.
    """
    from detserve_builder.zoo.get import entry

    for one in name:
        entry(one)
    for one in name:
        print(get_with_progress(one))


def download_first(checkpoint: str) -> None:
    """Where ``checkpoint`` is a name of the catalogue and not here yet, download it with a progress bar."""
    from detserve_builder.zoo.catalogue import CATALOGUE
    from detserve_builder.zoo.get import is_here

    if checkpoint in CATALOGUE and not Path(checkpoint).exists() and not is_here(checkpoint):
        get_with_progress(checkpoint)


def get_with_progress(name: str) -> Path:
    """Download ``name`` under a progress bar on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from detserve_builder.zoo.get import get, size_bytes

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True, markup=False, emoji=False)) as progress:
        task = progress.add_task(f"downloading {name}", total=size_bytes(name))
        return get(name, lambda count: progress.update(task, completed=count))
