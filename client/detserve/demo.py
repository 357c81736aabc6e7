"""``detserve demo``: a detector of the zoo, served and shown at work in one command."""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option, Typer

if TYPE_CHECKING:
    from detserve_client.client import Client
    from detserve_core.detections import Detections

REPEATS = 20
DEFAULT_MODEL = "codes_rcnn"

app = Typer(add_completion=False)


@app.command()
def demo(
    pictures: Annotated[
        list[str] | None,
        Argument(help="pictures, folders or glob patterns", show_default="the samples of the zoo"),
    ] = None,
    model: Annotated[
        list[str] | None,
        Option(help="a detector of the zoo; may be repeated", show_default=DEFAULT_MODEL),
    ] = None,
    output: Annotated[Path, Option(help="folder for the drawn pictures and detections.json")] = Path("demo"),
) -> None:
    """Build a detector, serve it, detect in pictures, draw what it finds and time it."""
    from detserve_builder.zoo.committed import sample_pictures
    from detserve_core.machine.whole_files import write_whole
    from detserve_core.pictures.drawing import require_drawing
    from detserve_core.text import json_text

    require_drawing()
    sources = pictures or [str(sample_pictures())]
    results = {name: shown(name, sources, output) for name in model or [DEFAULT_MODEL]}
    write_whole(output / "detections.json", (json_text(results, indent=2) + "\n").encode())
    print(f"drawn pictures and detections.json are in {output}/")
    if not pictures:
        print("with your own pictures: detserve demo photos/ --model yolox_nano")
        print("in the browser: detserve serve --repository model_repository, then: detserve rest --open")


def shown(model: str, pictures: list[str], output: Path) -> dict[str, list[dict[str, object]]]:
    """Serve ``model``, detect in every picture, draw it and print a table; the detections by picture."""
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    from detserve.building import build
    from detserve.serving import serve
    from detserve_builder.commands.zoo import download_first
    from detserve_core.picture_sources import expand_sources
    from detserve_core.pictures.drawing import drawn_path, save_drawn

    console = Console(markup=False, emoji=False)
    table = Table("picture", "found", f"ms (median of {REPEATS})", title=f"{model}, one request at a time")
    results = {}
    download_first(model)
    with ExitStack() as stack:
        with console.status(f"building {model} and starting a server, 30 s the first time"):
            client = stack.enter_context(serve(build(model)))
        for picture in track(expand_sources(pictures), model, console=console, transient=True):
            found, latency_ms = timed_ms(client, picture.path)
            save_drawn(picture.path, found, drawn_path(output / model, picture.name))
            results[str(picture.name)] = found.to_dicts()
            names = ", ".join(f"{row.label} {row.score:.2f}" for row in found) or "nothing"
            table.add_row(str(picture.name), names, f"{latency_ms:.1f}")
    console.print(table)
    return results


def timed_ms(client: Client, picture: Path) -> tuple[Detections, float]:
    """Detections, and the median milliseconds of one request after a first one."""
    encoded = picture.read_bytes()
    found = client.detect(encoded)
    durations_ms = []
    for _ in range(REPEATS):
        start_s = time.perf_counter()
        client.detect(encoded)
        durations_ms.append((time.perf_counter() - start_s) * 1000)
    return found, statistics.median(durations_ms)
