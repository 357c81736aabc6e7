"""``detserve canary``: may the new detector take over?"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from detserve_client.client import Client
from detserve_client.commands.security_options import ApiKeyFile, Ca, Certificate
from detserve_core.machine.whole_files import write_whole
from detserve_core.picture_sources import expand_sources
from detserve_core.text import json_text
from detserve_perf.server.access import client_of, endpoint_of

if TYPE_CHECKING:
    from detserve_perf.accuracy.canary import Comparison
    from detserve_perf.report.tables import Table

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def canary(
    old: Annotated[str, typer.Option(help="The server of today: grpc://HOST:PORT or http://HOST:PORT.")],
    new: Annotated[str, typer.Option(help="The server that may take over.")],
    model: Annotated[str, typer.Option(help="The ensemble.")],
    new_model: Annotated[
        str | None, typer.Option(help="Its name on the new server.", show_default="--model")
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Folder of pictures like those of the traffic.")
    ] = None,
    from_stdin: Annotated[
        bool, typer.Option("--from-stdin", help="Read the pictures' paths from standard input, one a line.")
    ] = False,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Annotations (COCO, YOLO, Pascal VOC): compare AP too; --pictures says where they are."
        ),
    ] = None,
    max_changed: Annotated[
        float, typer.Option(min=0, max=1, help="Largest share of pictures on which detections change.")
    ] = 0.05,
    min_iou: Annotated[float, typer.Option(min=0, max=1, help="Least mean IoU of matched boxes.")] = 0.95,
    max_ap_drop: Annotated[float, typer.Option(min=0, max=1, help="Most AP to lose, with --labels.")] = 0.01,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight at each server.")] = 2,
    output: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
    api_key_file: ApiKeyFile = None,
    ca: Ca = None,
    certificate: Certificate = None,
) -> None:
    """Send the same pictures to an old and a new detector; exit 1 when too much changes.

    A Triton behind a gateway is shown DETSERVE_GATEWAY_SECRET.
    A picture has changed when a box has no partner of its class with an IoU of 0.5 or more, when a matched
    box moved (IoU under 0.9), or when the new detector failed.
    """
    from detserve_perf.accuracy.canary import AllowedChange

    if from_stdin and (pictures or labels):
        raise typer.BadParameter("it cannot be used with --pictures or --labels", param_hint="--from-stdin")
    if not (from_stdin or pictures or labels):
        raise typer.BadParameter("give --pictures, --labels or --from-stdin", param_hint="--pictures")
    access = partial(endpoint_of, api_key_file=api_key_file, ca=ca, certificate=certificate)
    terminal = Console(stderr=True, emoji=False)
    with (
        client_of(access(old), model) as old_client,
        client_of(access(new), new_model or model) as new_client,
        Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as progress,
    ):
        task = progress.add_task("comparing", total=None)
        comparison = _compare(
            old_client, new_client, pictures, labels, concurrency, lambda: progress.advance(task)
        )
    allowed = AllowedChange(max_changed=max_changed, min_iou=min_iou, max_ap_drop=max_ap_drop)
    breaches = comparison.breaches(allowed)
    _table(comparison).print(Console(markup=False, emoji=False))
    if output is not None:
        content = {**asdict(comparison), "allowed": asdict(allowed), "breaches": breaches}
        write_whole(output, (json_text(content, indent=2) + "\n").encode())
    if breaches:
        typer.echo(f"detserve: the new detector is held back: {'; '.join(breaches)}", err=True)
        raise typer.Exit(1)
    typer.echo("The new detector may take over.")


def _compare(
    old: Client,
    new: Client,
    pictures: Path | None,
    labels: Path | None,
    concurrency: int,
    on_picture: Callable[[], None],
) -> Comparison:
    from detserve_perf.accuracy.canary import compare_dataset, compare_pictures

    if labels is not None:
        return compare_dataset(old, new, labels, pictures, concurrency=concurrency, on_picture=on_picture)
    if pictures is not None:
        paths = [found.path for found in expand_sources([str(pictures)])]
    else:
        paths = [Path(line.rstrip("\n")) for line in sys.stdin if line.strip()]
    return compare_pictures(old, new, paths, concurrency=concurrency, on_picture=on_picture)


def _table(comparison: Comparison) -> Table:
    from detserve_perf.report.tables import Column, Table

    columns = [
        Column("class", "class"),
        *(Column(name, name) for name in ("matched", "moved", "missed", "extra")),
        Column("mean IoU", "mean_iou", 4),
        Column("score change", "score_change", 4),
    ]
    rows = [
        [one.name, one.matched, one.moved, one.missed, one.extra, one.mean_iou, one.mean_score_change]
        for one in comparison.boxes
    ]
    title = f"{comparison.pictures} pictures, {comparison.changed} changed ({comparison.changed_share:.1%})"
    if comparison.ap is not None:
        title += f", AP {comparison.ap[0]:.4f} -> {comparison.ap[1]:.4f}"
    return Table(title, columns, rows)
