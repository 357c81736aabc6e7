"""The scenes that precisions of the zoo's detectors are calibrated with and measured on in the benches."""

from __future__ import annotations

from pathlib import Path

from zoo.scenes.samples import write_scenes


def write_bench_scenes(folder: Path) -> tuple[Path, Path]:
    """128 scenes to calibrate with and 200 others to measure on, held out from training; their folders."""
    calibrate, evaluate = folder / "calibrate", folder / "evaluate"
    write_scenes(calibrate, range(300_000, 300_128), 640)
    write_scenes(evaluate, range(310_000, 310_200), 640)
    return calibrate, evaluate
