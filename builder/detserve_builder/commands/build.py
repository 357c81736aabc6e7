"""``detserve build``: from a checkpoint to a model repository."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option, Typer

from detserve_builder.precision.calibration import CalibrationSource
from detserve_builder.precision.request import Precision, PrecisionRequest
from detserve_builder.triton_config import Target

app = Typer(add_completion=False)


@app.command()
def build(
    checkpoint: Annotated[str, Argument(help="an .onnx file or a zoo name")],
    name: Annotated[str, Option(help="name of the served detector")],
    repository: Annotated[Path, Option(help="model repository to write into")],
    card: Annotated[Path | None, Option(help="JSON with the card fields you say yourself")] = None,
    target: Annotated[Target, Option(help="where the detector step runs")] = Target.EMBEDDED,
    precision: Annotated[
        Precision | None, Option(help="what the network's layers compute in", show_default="fp32")
    ] = None,
    calibrate: Annotated[Path | None, Option(help="folder of pictures like those to be detected in")] = None,
    force_calibration: Annotated[bool, Option("--force-calibration", help="take a single picture")] = False,
) -> None:
    """Build a detector into a model repository: preprocess, detector, postprocess and their ensemble."""
    from rich.console import Console

    from detserve_builder.build import build as build_repository

    console = Console(stderr=True)
    with console.status("") as status:
        built = build_repository(
            checkpoint,
            name=name,
            repository=repository,
            card_path=card,
            target=target,
            request=PrecisionRequest(precision, calibrate, force_calibration),
            on_step=lambda step: status.update(f"{step} …"),
        )
    if built.batch_obstacle:
        console.print(f"one picture at a time: {built.batch_obstacle}", highlight=False)
    if built.calibration and built.calibration.skipped:
        console.print(skipped_pictures(built.calibration), highlight=False)
    for folder in built.folders:
        print(folder)


def skipped_pictures(calibration: CalibrationSource) -> str:
    """One sentence on the calibration pictures that were not used."""
    path, reason = calibration.skipped[0]
    count = len(calibration.skipped) + len(calibration.pictures)
    return (
        f"{len(calibration.skipped)} of {count} calibration pictures skipped; the first is {path} ({reason})"
    )
