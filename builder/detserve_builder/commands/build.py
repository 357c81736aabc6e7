"""``detserve build``: from a checkpoint to a model repository."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option, Typer

from detserve_builder.triton_config import Preprocess, Target

if TYPE_CHECKING:
    from rich.console import Console

    from detserve_builder.tensorrt.compile_gate import Gate

app = Typer(add_completion=False)


@app.command()
def build(
    checkpoint: Annotated[
        str, Argument(help="an .onnx file, a Darknet .cfg beside its .weights, or a zoo name")
    ],
    name: Annotated[str, Option(help="name of the served detector")],
    repository: Annotated[Path, Option(help="model repository to write into")],
    card: Annotated[Path | None, Option(help="JSON with the card fields you say yourself")] = None,
    target: Annotated[Target, Option(help="where the detector step runs")] = Target.EMBEDDED,
    preprocess: Annotated[
        Preprocess, Option(help="who decodes the pictures; dali is for the target tensorrt")
    ] = Preprocess.PYTHON,
    check_tensorrt: Annotated[
        bool, Option("--check-tensorrt", help="compile the graph with NVIDIA's compiler, on the CPU")
    ] = False,
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
            preprocess=preprocess,
            check_tensorrt=check_tensorrt,
            on_step=lambda step: status.update(f"{step} …"),
        )
    if built.batch_obstacle:
        console.print(f"one picture at a time: {built.batch_obstacle}", highlight=False)
    if built.gate:
        _report(built.gate, console)
    if target is Target.TENSORRT:
        console.print(
            "next, on the GPU that will serve it: "
            f"MODEL_REPOSITORY={repository} docker compose run --rm --build build-engines",
            highlight=False,
            soft_wrap=True,
        )
    for folder in built.folders:
        print(folder)


def _report(gate: Gate, console: Console) -> None:
    for compiled in gate.compiled:
        console.print(
            f"TensorRT compiles it for compute capability {compiled.compute_capability} "
            f"({compiled.plan_bytes / 1e6:.1f} MB, {compiled.duration_s:.1f} s)",
            highlight=False,
        )
    for left_out in gate.left_out:
        console.print(f"not checked, TensorRT-RTX lacks it: {left_out}", highlight=False)
