"""What stands in front of a detector that takes no CPU: how much of it is used, and what it could feed.

``make bench`` runs it. The detector sleeps for each batch of 8, so that two cores are enough to see whether
the way to it holds. Builds are compared in one run, taking turns: three steps bounded by Triton's queue
policies, as they were built before 2026-11-30, three steps as built now, and the pipeline, in a process of
its own and within the server's. With a detector that takes no time at all the pipeline shows its own ceiling,
beside the same decode, letterbox and NMS in a loop without a server.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import psutil
from rich.console import Console

from detserve_builder.steps.detserve_postprocess import postprocess
from detserve_builder.steps.detserve_preprocess import preprocess, settings
from detserve_builder.triton_config import Placement
from detserve_core.endpoint import Endpoint
from detserve_core.repository.manifest import read_manifest
from detserve_perf.load.corpus import read_pictures
from detserve_perf.load.generator import Run, closed_loop, grpc_sender, open_loop
from detserve_perf.load.wire_requests import triton_grpc_requests
from detserve_perf.report.tables import Column, Report, Table
from detserve_server.triton.embedded import RunningServer, embedded_server
from tests.live.sleeping_detector import NAME, bound_by_triton, build_sleeping

CHECKOUT = Path(__file__).parents[1]
OUT = CHECKOUT / "out/bench"
SAMPLES = CHECKOUT / "zoo/samples"
BATCH, BATCH_S, SMALL_S = 8, 0.04, 0.01
TURNS = 2
#: Name -> placement, within the server's process, bounded by Triton.
BUILDS = {
    "steps, Triton's bounds": (Placement.STEPS, False, True),
    "steps": (Placement.STEPS, False, False),
    "pipeline, own process": (Placement.PIPELINE, False, False),
    "pipeline, server's process": (Placement.PIPELINE, True, False),
}


@contextmanager
def served(folder: Path, name: str, sleep_s: float) -> Iterator[RunningServer]:
    """The build of this name in front of a detector that sleeps."""
    placement, within, bounded = BUILDS[name]
    repository = build_sleeping(folder, sleep_s=sleep_s, placement=placement, within_server=within)
    with embedded_server(bound_by_triton(repository) if bounded else repository) as running:
        yield running


async def load(server: RunningServer, in_flight: int, requests: int) -> Run:
    """As many requests as that, so many in flight."""
    messages = triton_grpc_requests(NAME, read_pictures(SAMPLES))
    async with grpc_sender(Endpoint.parse(server.grpc_url), messages) as send:
        await closed_loop(send, concurrency=in_flight, requests=2 * in_flight)
        return await closed_loop(send, concurrency=in_flight, requests=requests)


async def twice_what_it_can(server: RunningServer, rate_per_s: float) -> Run:
    """Requests at their own times, for five seconds."""
    messages = triton_grpc_requests(NAME, read_pictures(SAMPLES))
    async with grpc_sender(Endpoint.parse(server.grpc_url), messages) as send:
        return await open_loop(send, list(np.arange(0, 5, 1 / rate_per_s)))


def figures(run: Run) -> tuple[float, float, float, float, float]:
    """Answered a second; milliseconds p50, p99 and longest; a refusal's p99."""
    refused_ms = [1e3 * one.latency_s for one in run.samples if one.error is not None]
    p50, p99, longest = np.percentile(run.latencies_ms, (50, 99, 100))
    return run.pictures_per_s, p50, p99, longest, float(np.percentile(refused_ms, 99)) if refused_ms else 0.0


def of_the_detector(folder: Path) -> Table:
    """At 4, 24 and 96 in flight, and at twice what the detector can do."""
    rows: list[tuple[str | float, ...]] = []
    can_do = BATCH / BATCH_S
    for turn in range(TURNS):
        for name in BUILDS:
            with served(folder / f"{turn}-{name}", name, BATCH_S) as server:
                for in_flight in (24, 96):
                    found = figures(asyncio.run(load(server, in_flight, 1200)))
                    rows.append((name, f"{in_flight} in flight", turn, found[0] / can_do, *found))
                found = figures(asyncio.run(twice_what_it_can(server, 2 * can_do)))
                rows.append((name, f"{2 * can_do:.0f}/s", turn, found[0] / can_do, *found))
            with served(folder / f"{turn}-{name}-small", name, SMALL_S) as server:
                found = figures(asyncio.run(load(server, 4, 2000)))
                rows.append((name, "4 in flight, 10 ms", turn, None, *found))  # type: ignore[arg-type]
    columns = [
        Column("build", "build"),
        Column("load", "load"),
        Column("turn", "turn"),
        Column("of the detector", "share"),
        Column("answered/s", "answered_per_s", 1),
        Column("p50 ms", "p50_ms", 0),
        Column("p99 ms", "p99_ms", 0),
        Column("longest ms", "longest_ms", 0),
        Column("refusal p99 ms", "refusal_p99_ms", 1),
    ]
    ordered = sorted(rows, key=lambda row: (str(row[1]), list(BUILDS).index(str(row[0])), row[2]))
    return Table(f"A detector that sleeps {1e3 * BATCH_S:.0f} ms for a batch of 8", columns, ordered)


def in_process(repository: Path, for_s: float = 4) -> tuple[float, float]:
    """Pictures a second of decode, letterbox and NMS on every core, and milliseconds of CPU time for one."""
    card = read_manifest(repository, NAME).card
    chosen = settings(card.model_dump(mode="json"))
    rows = card.thresholds.max_detections
    boxes = np.tile(np.array([10, 10, 60, 60], np.float32), (card.candidates, 1))
    scores, classes = np.zeros(card.candidates, np.float32), np.zeros(card.candidates, np.int32)
    scores[0] = 0.9
    encoded = read_pictures(SAMPLES)
    done = []

    def work(ends_s: float) -> None:
        count = 0
        while time.perf_counter() < ends_s:
            _, geometry = preprocess(encoded[count % len(encoded)], **chosen)
            postprocess(
                *(boxes, scores, classes, geometry),
                score_threshold=card.thresholds.score,
                iou_threshold=card.thresholds.iou,
                max_detections=rows,
                rows=rows,
            )
            count += 1
        done.append(count)

    ends_s, used_s = time.perf_counter() + for_s, time.process_time()
    threads = [threading.Thread(target=work, args=(ends_s,)) for _ in os.sched_getaffinity(0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / for_s, 1e3 * (time.process_time() - used_s) / sum(done)


def cpu_s(server: RunningServer, repository: Path) -> tuple[float, float]:
    """CPU time that the server's processes have taken without the detector's, and the detector's."""
    running = psutil.Process(server.pid)
    processes = [running, *running.children(recursive=True)]
    own = [process for process in processes if f"{NAME}_detector_0_0" in process.cmdline()]
    taken = {process: sum(process.cpu_times()[:2]) for process in processes}
    thread_s = float((repository / "cpu_s").read_text())
    detector_s = sum(taken[process] for process in own) if own else thread_s
    return sum(taken.values()) - detector_s, detector_s


def ceilings(folder: Path) -> Table:
    """On one core and on all, of a detector that takes no time."""
    rows, all_cores = [], sorted(os.sched_getaffinity(0))
    for cores in (all_cores[:1], all_cores):
        os.sched_setaffinity(0, cores)
        for turn in range(TURNS):
            for name in list(BUILDS)[1:]:
                with ExitStack() as stack:
                    repository = folder / f"{len(cores)}-{turn}-{name}"
                    server = stack.enter_context(served(repository, name, 0))
                    own_per_s, own_cpu_ms = in_process(repository)
                    asyncio.run(load(server, 16, 100))
                    before_s = cpu_s(server, repository)
                    run = asyncio.run(load(server, 16, 2000))
                    after_s, pictures = cpu_s(server, repository), len(run.samples) + 32
                cpu_ms = [1e3 * (after_s[i] - before_s[i]) / pictures for i in range(2)]
                per_s, sender_ms = run.pictures_per_s, 1e3 * run.cpu_s / len(run.samples)
                found = (own_per_s, per_s, per_s / own_per_s, own_cpu_ms, *cpu_ms, sender_ms)
                rows.append((name, len(cores), turn, *found))
    os.sched_setaffinity(0, all_cores)
    columns = [
        Column("build", "build"),
        Column("cores", "cores", 0),
        Column("turn", "turn"),
        Column("in-process/s", "in_process_per_s", 0),
        Column("served/s", "served_per_s", 0),
        Column("of in-process", "share"),
        Column("CPU ms in-process", "in_process_cpu_ms"),
        Column("server", "server_cpu_ms"),
        Column("detector", "detector_cpu_ms"),
        Column("sender", "sender_cpu_ms"),
    ]
    ordered = sorted(rows, key=lambda row: (row[1], list(BUILDS).index(row[0]), row[2]))
    return Table("What the way to the detector can feed", columns, ordered)


def main() -> None:
    """Measure, print and write."""
    with tempfile.TemporaryDirectory(prefix="detserve-bench-") as scratch:
        tables = [ceilings(Path(scratch) / "c")] if "ceilings" in sys.argv else []
        if "detector" in sys.argv or not tables:
            tables.append(of_the_detector(Path(scratch) / "d"))
    report = Report(
        "placements", "The way to the detector", tables, [], [], {table.title: table.rows for table in tables}
    )
    report.print(Console())
    report.write(OUT)


if __name__ == "__main__":
    main()
