"""Every precision of five detectors, measured in one run: ``make bench-precision DATA=../shared/data``.

Without DATA it is the zoo's two one-stage detectors, on scenes generated for them. Writes
out/bench/precision.md, .csv, .json and .png. Keep the machine quiet meanwhile.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from benchmarks.scenes import write_bench_scenes
from detserve_builder.build import probe_pictures, warmup_picture
from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.infer_card import infer_card
from detserve_builder.precision.choice import apply_precision, place_of
from detserve_builder.precision.gate import Gate, Measured
from detserve_builder.precision.request import Precision, PrecisionRequest
from detserve_builder.preparation.prepare import prepare
from detserve_builder.quantise.calibration import calibration_folder
from detserve_builder.repository import write_repository
from detserve_builder.triton_config import Placement, Target
from detserve_core.endpoint import Endpoint
from detserve_perf.load.corpus import input_data, read_pictures
from detserve_perf.load.perf_analyzer import find_perf_analyzer
from detserve_perf.load.perf_analyzer_run import LoadPoint, LoadResult, run_load
from detserve_perf.report.machine import this_machine
from detserve_perf.report.tables import Column, Figure, Report, Table
from detserve_server.triton.embedded import embedded_server
from tests.ssd_checkpoints import save_ssd_checkpoints

OUT = Path(__file__).parents[1] / "out/bench"
PRUNE = "channels:0.1"
REQUESTS = 300
COLUMNS = (
    Column("detector", "detector"),
    Column("precision", "precision"),
    Column("AP", "ap", 4),
    Column("AP drop", "ap_drop", 4),
    Column("MB", "size_mb"),
    Column("in-process ms", "in_process_ms"),
    Column("faster", "in_process_speedup"),
    Column("served p50 ms", "served_p50_ms"),
    Column("faster", "served_speedup"),
    Column("pictures/s", "pictures_per_s", 1),
)


@dataclass(frozen=True)
class Subject:
    """A checkpoint, pictures to calibrate with and labelled ones to measure on."""

    name: str
    checkpoint: str
    card: Path | None
    calibrate: Path
    instances: Path
    images: Path


@dataclass(frozen=True)
class Row:
    """A candidate in-process and served: one request at a time, and four."""

    detector: str
    in_process: Measured
    alone: LoadResult
    loaded: LoadResult


def subjects(data: Path | None, scratch: Path) -> Iterator[Subject]:
    """The zoo's one-stage detectors, and those of ../shared/data where it is named."""
    calibrate, evaluate = write_bench_scenes(scratch)
    for name in ("codes_yolo", "codes_ssd"):
        yield Subject(name, name, None, calibrate, evaluate / "instances.json", evaluate)
    if data is None:
        return
    coco = (
        data / "datasets/coco_train_calib/images",
        data / "datasets/coco_val64/instances_val64.json",
        data / "datasets/coco_val64/images",
    )
    ssd, ssd_card = save_ssd_checkpoints(scratch)["ssd_mobilenet"]
    yield Subject("ssd_mobilenet", str(ssd), ssd_card, *coco)
    yield Subject("yolo_fastest_xl", str(data / "models/darknet/yolo-fastest-1.1-xl.cfg"), None, *coco)
    yield Subject("yolox_nano", str(data / "models/anchor_free/yolox_nano_416x416.onnx"), None, *coco)


def shown(tried: list[Measured], gate: Gate) -> list[Measured]:
    """Of each precision and runtime the fastest that passes, or else the most accurate; plain INT8 too."""
    groups: dict[tuple[object, ...], list[Measured]] = {}
    for measured in tried:
        made = measured.candidate
        key = (made.precision, made.runtime, made.baseline, made.settings.get("prune"))
        groups.setdefault(key, []).append(measured)
    return [gate.fastest(group) or min(group, key=lambda m: m.ap_drop) for group in groups.values()]


def measure(subject: Subject, scratch: Path, console: Console) -> Iterator[Row]:
    """Search, then serve what is shown."""
    checkpoint = load_checkpoint(subject.checkpoint)
    card = infer_card(checkpoint, name=subject.name, said=subject.card)
    prepared = prepare(checkpoint, card, probe_pictures(card))
    request = PrecisionRequest(
        prune=PRUNE, calibrate=subject.calibrate, evaluate=subject.instances, images=subject.images
    )
    with console.status("") as status:
        outcome = apply_precision(
            prepared.model,
            card,
            place_of(Target.EMBEDDED, request),
            request,
            calibration_folder(subject.calibrate, card),
            lambda step: status.update(f"{subject.name}: {step}"),
        )
        pictures = read_pictures(subject.images)
        (scratch / "corpus.json").write_text(input_data(pictures))
        for measured in shown(outcome.tried, outcome.gate or Gate(0, 0)):
            status.update(f"{subject.name}: serving {measured.candidate.label}")
            made = measured.candidate
            repository = Path(tempfile.mkdtemp(dir=scratch))
            write_repository(
                repository,
                card,
                replace(prepared, model=made.model),
                target=Target.EMBEDDED,
                placement=Placement.PIPELINE,
                warmup=warmup_picture(card),
                measured={},
                precision=made.precision,
                runtime=made.runtime,
                floats=made.floats,
            )
            with embedded_server(repository) as server:
                endpoint = Endpoint.parse(server.grpc_url)
                alone, loaded = (
                    run_load(
                        find_perf_analyzer(),
                        endpoint,
                        card.name,
                        scratch / "corpus.json",
                        LoadPoint(concurrency),
                        REQUESTS,
                    )
                    for concurrency in (1, 4)
                )
            yield Row(subject.name, measured, alone, loaded)


def report(rows: list[Row]) -> Report:
    """A line per candidate; "faster" is over that detector's first line."""
    first = {row.detector: row for row in reversed(rows)}
    cells = [
        (
            row.detector,
            row.in_process.candidate.label,
            row.in_process.ap,
            row.in_process.ap_drop,
            row.in_process.size_bytes / 1e6,
            row.in_process.latency_ms,
            row.in_process.speedup,
            row.alone.p50_ms,
            first[row.detector].alone.p50_ms / row.alone.p50_ms,
            row.loaded.pictures_per_s,
        )
        for row in rows
    ]
    machine = this_machine(triton="")
    notes = ["a precision that misses the gate is shown with its smallest drop"]
    notes += [
        f"{name}: the best searched INT8 has {most:.4f} AP, plain quantize_static {plain:.4f}"
        for name in dict.fromkeys(row.detector for row in rows)
        for most, plain in [int8_ap([row for row in rows if row.detector == name])]
    ]
    keys = [column.key for column in COLUMNS]
    return Report(
        name="precision",
        title="Precision",
        tables=[Table("Every precision of every detector", COLUMNS, cells)],
        facts=[
            ("CPU", f"{machine.cpu}, {machine.cores} cores"),
            ("in-process", "median of one thread at batch 1, fp32 and candidate in turn"),
            ("served p50", "perf_analyzer, gRPC, one request at a time"),
            ("pictures/s", "perf_analyzer, gRPC, four requests at a time"),
            ("date", machine.date),
        ],
        notes=notes,
        data={"rows": [dict(zip(keys, row, strict=True)) for row in cells]},
        figures=[Figure("AP against served latency", "precision.png", lambda: plot(rows))],
    )


def int8_ap(rows: list[Row]) -> tuple[float, float]:
    """Of the searched candidates the highest, and of quantize_static with its default settings."""
    int8 = [row.in_process for row in rows if row.in_process.candidate.precision is Precision.INT8]
    searched, plain = (
        max((one.ap for one in int8 if one.candidate.baseline is baseline), default=float("nan"))
        for baseline in (False, True)
    )
    return searched, plain


def plot(rows: list[Row]) -> bytes:
    """AP against served latency, a panel a detector."""
    from matplotlib import figure

    names = list(dict.fromkeys(row.detector for row in rows))
    drawn = figure.Figure(figsize=(5 * len(names), 4.5), layout="constrained")
    for axes, name in zip(drawn.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for row in (row for row in rows if row.detector == name):
            position = (row.alone.p50_ms, row.in_process.ap)
            axes.plot(*position, "o")
            axes.annotate(
                row.in_process.candidate.label,
                position,
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=7,
            )
        axes.set(title=name, xlabel="served p50, ms (one request at a time)", ylabel="AP")
        axes.margins(x=0.25, y=0.1)
    encoded = io.BytesIO()
    drawn.savefig(encoded, format="png", dpi=110)
    return encoded.getvalue()


def main() -> None:
    """Measure all, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="?", help="folder with models/ and datasets/")
    data = parser.parse_args().data
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="detserve-bench-") as folder:
        scratch = Path(folder)
        rows: list[Row] = []
        for subject in subjects(data, scratch):
            rows += measure(subject, scratch, console)
            made = report(rows)
            made.write(OUT)  # what is measured is kept, whatever becomes of the rest
        made.print(Console())


if __name__ == "__main__":
    main()
