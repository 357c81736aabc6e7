"""``detserve engine``: the plans of a repository of the tensorrt target, for the GPU of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option, Typer

app = Typer(add_completion=False)


@app.command()
def engine(
    repository: Annotated[Path, Option(help="model repository built with --target tensorrt")],
    name: Annotated[
        list[str] | None, Option(help="detector to build; again for more; all by default")
    ] = None,
    opt_batch: Annotated[int | None, Option(min=1, help="batch to tune for; the largest by default")] = None,
    version_compatible: Annotated[
        bool, Option("--version-compatible", help="load in later TensorRT versions too; slower")
    ] = False,
    hardware_compatible: Annotated[
        bool, Option("--hardware-compatible", help="one plan for all GPUs from Ampere on; slower")
    ] = False,
    sparse_weights: Annotated[
        bool, Option("--sparse-weights", help="use the kernels for weights pruned 2:4")
    ] = False,
    timing_cache: Annotated[
        Path | None, Option(help="folder that keeps timings between builds, which makes the next one fast")
    ] = None,
) -> None:
    """Build TensorRT plans from the ONNX in a repository. Run it inside the serving image, on its GPU."""
    from rich.console import Console
    from rich.text import Text

    from detserve_builder.errors import BuildError
    from detserve_builder.tensorrt.engines import EngineOptions, build_engine, tensorrt_detectors
    from detserve_builder.tensorrt.gpu import first_gpu
    from detserve_builder.tensorrt.libraries import import_tensorrt

    present = tensorrt_detectors(repository)
    for wanted in name or ():
        if wanted not in present:
            raise BuildError(f"{repository}: no TensorRT detector {wanted!r}; it has {', '.join(present)}")
    trt, gpu = import_tensorrt(), first_gpu()
    options = EngineOptions(
        opt_batch=opt_batch,
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
        sparse_weights=sparse_weights,
        timing_cache=timing_cache,
    )
    console = Console(stderr=True, markup=False, emoji=False)
    with console.status("") as status:
        for detector in name or present:
            plans = build_engine(
                repository,
                detector,
                options,
                trt=trt,
                gpu=gpu,
                on_step=lambda step: status.update(Text(f"{step} …")),
            )
            for plan in plans:
                print(plan)
