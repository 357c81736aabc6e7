"""``detserve build``: from a checkpoint to a model repository."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option, Typer

from detserve_builder.commands.card_table import DECIDE_GUESSES, guess_lines
from detserve_builder.commands.input_size import INPUT_SIZE_HELP, input_size
from detserve_builder.commands.zoo import download_first
from detserve_builder.errors import BuildError
from detserve_builder.precision import report
from detserve_builder.precision.request import Precision, PrecisionRequest
from detserve_builder.quantise.calibration import CalibrationSource
from detserve_builder.runtime import Runtime
from detserve_builder.triton_config import Placement, Preprocess, Target
from detserve_core.errors import RepositoryError

if TYPE_CHECKING:
    from rich.console import Console

    from detserve_builder.tensorrt.compile_gate import Gate
    from detserve_core.card import Card

app = Typer(add_completion=False)


@app.command()
def build(
    checkpoint: Annotated[
        str, Argument(help="an .onnx file, a Darknet .cfg beside its .weights, or a zoo name")
    ],
    repository: Annotated[Path, Option(help="model repository to write into")],
    name: Annotated[str | None, Option(help="name of the served detector", show_default="the file's")] = None,
    card: Annotated[Path | None, Option(help="JSON with the card fields you say yourself")] = None,
    size: Annotated[str | None, Option("--input-size", help=INPUT_SIZE_HELP)] = None,
    target: Annotated[Target, Option(help="where the detector step runs")] = Target.EMBEDDED,
    precision: Annotated[
        Precision | None,
        Option(
            help="what the network's layers compute in",
            show_default="fp32; with --images, what measures best",
        ),
    ] = None,
    calibrate: Annotated[Path | None, Option(help="folder of pictures like those to be detected in")] = None,
    force_calibration: Annotated[
        bool, Option("--force-calibration", help="accept one picture, which calibrates badly")
    ] = False,
    prune: Annotated[
        str | None,
        Option(
            help="2:4, the share of weights to set to zero, or channels:SHARE of the multiplications to save"
        ),
    ] = None,
    evaluate: Annotated[
        Path | None,
        Option(help="labels to measure by: a COCO json file, or a YOLO or Pascal VOC dataset"),
    ] = None,
    images: Annotated[
        Path | None,
        Option(help="folder of the pictures to measure on; without --evaluate, by agreement with fp32"),
    ] = None,
    max_ap_drop: Annotated[float | None, Option(min=0, max=1, help="most AP to lose (0.01)")] = None,
    min_speedup: Annotated[float | None, Option(min=0, help="least speed-up over fp32 in-process")] = None,
    runtime: Annotated[
        Runtime | None,
        Option(
            help="library of the embedded target's detector step",
            show_default="onnxruntime, or the faster one where --images measures",
        ),
    ] = None,
    preprocess: Annotated[
        Preprocess, Option(help="who decodes the pictures; dali is for the target tensorrt")
    ] = Preprocess.PYTHON,
    placement: Annotated[
        Placement, Option(help="one model for all steps, or a model for each, to see and replace")
    ] = Placement.PIPELINE,
    check_tensorrt: Annotated[
        bool, Option("--check-tensorrt", help="compile the graph with NVIDIA's compiler, on the CPU")
    ] = False,
) -> None:
    """Build a detector into a model repository: its pipeline, or three steps, and the ensemble in front."""
    from rich.console import Console
    from rich.text import Text

    from detserve_builder.build import build as build_repository
    from detserve_builder.build import name_of

    console = Console(stderr=True, markup=False, emoji=False)
    download_first(checkpoint)
    earlier = _earlier(repository, name or name_of(checkpoint))
    request = PrecisionRequest(
        precision, prune, calibrate, force_calibration, evaluate, images, max_ap_drop, min_speedup, runtime
    )
    with console.status("") as status:
        built = build_repository(
            checkpoint,
            name=name or name_of(checkpoint),
            repository=repository,
            card_path=card,
            input_wh=input_size(size),
            target=target,
            request=request,
            preprocess=preprocess,
            placement=placement,
            check_tensorrt=check_tensorrt,
            on_step=lambda step: status.update(Text(f"{step} …")),
        )
    if built.card_note:
        console.print(built.card_note, soft_wrap=True, highlight=False)
    for line in guess_lines(built.inferred):
        console.print(line, soft_wrap=True)
    if built.inferred.guesses:
        console.print(DECIDE_GUESSES, soft_wrap=True, highlight=False)
    if built.batch_obstacle:
        console.print(f"one picture at a time: {built.batch_obstacle}", highlight=False)
    if built.calibration and built.calibration.skipped:
        console.print(skipped_pictures(built.calibration), highlight=False)
    if ap := built.decoding.record:
        console.print(
            f"large JPEGs are decoded {built.card.preprocess.decode.value}: AP {ap['whole']:.4f} whole, "
            f"{ap['reduced']:.4f} reduced",
            highlight=False,
        )
    for note in built.outcome.notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    if built.outcome.tried:
        console.print(report.table(built.outcome))
        if built.outcome.chosen is not None:
            print(f"chosen: {built.outcome.chosen.candidate.label}")
    if built.gate:
        _report(built.gate, console)
    if target is Target.TENSORRT:
        console.print(
            "next, in the checkout, on the GPU that will serve it: "
            f"MODEL_REPOSITORY={repository.resolve()} docker compose run --rm --build build-engines",
            highlight=False,
            soft_wrap=True,
        )
    if earlier is not None and earlier.origin.sha256 != built.card.origin.sha256:
        console.print(
            f"replaced {earlier.name}, which was built from another file"
            f"{f' ({earlier.origin.source})' if earlier.origin.source else ''}",
            highlight=False,
            soft_wrap=True,
        )
    for folder in built.folders:
        print(folder)
    if built.outcome.refusal:
        raise BuildError(built.outcome.refusal)


def _earlier(repository: Path, name: str) -> Card | None:
    """The card of the detector whose place this build takes, where it can be read."""
    from detserve_core.repository.manifest import read_manifest

    try:
        return read_manifest(repository, name).card
    except RepositoryError:
        return None


def skipped_pictures(calibration: CalibrationSource) -> str:
    """One sentence on the calibration pictures that were not used."""
    path, reason = calibration.skipped[0]
    count = len(calibration.skipped) + len(calibration.pictures)
    return (
        f"{len(calibration.skipped)} of {count} calibration pictures skipped; the first is {path} ({reason})"
    )


def _report(gate: Gate, console: Console) -> None:
    for compiled in gate.compiled:
        console.print(
            f"TensorRT compiles it for compute capability {compiled.compute_capability} "
            f"({compiled.plan_bytes / 1e6:.1f} MB, {compiled.duration_s:.1f} s)",
            highlight=False,
        )
    for left_out in gate.left_out:
        console.print(f"not checked, TensorRT-RTX lacks it: {left_out}", highlight=False)
