"""Which way to send pictures and how many instances serve most on this machine.

Every variant has a server of its own, all run at once and idle while another is measured. The rounds take all
variants, pictures and transports in turn.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory

import numpy as np

from detserve_core.endpoint import Endpoint
from detserve_core.errors import MissingExtra
from detserve_core.machine.cores import cores
from detserve_core.machine.processes import tree_cpu_s
from detserve_perf.capacity.variants import copy_with_instances, instances_of, placement_of
from detserve_perf.errors import MeasurementError
from detserve_perf.load.corpus import corpus_note, read_pictures
from detserve_perf.load.generator import Send, closed_loop, grpc_sender, http_sender
from detserve_perf.load.picture_region import requests_in_shared_memory
from detserve_perf.load.wire_requests import triton_grpc_requests, triton_http_requests
from detserve_perf.report.machine import Machine, this_machine
from detserve_perf.server.served import Served, served
from detserve_perf.server.triton import TritonQueries
from detserve_perf.speed.sweep import spread

OnProgress = Callable[[str], None]
JPEG, RAW = "as it is", "raw (BMP)"
GRPC, HTTP, SHARED_MEMORY = "gRPC", "HTTP", "shared memory"
_ALLOW = "--allow-shared-memory"
_WARM_UP_REQUESTS = 16


@dataclass(frozen=True)
class Choice:
    """One way to serve and to ask."""

    placement: str
    instances: int
    picture: str
    transport: str


@dataclass(frozen=True)
class ChoiceRun:
    """One choice in one round."""

    choice: Choice
    pictures_per_s: float
    p50_ms: float
    p99_ms: float
    server_cpu_ms: float


@dataclass(frozen=True)
class PlacementSettings:
    """``concurrency`` requests under way, ``requests`` per choice and round."""

    concurrency: int
    requests: int
    repeats: int


@dataclass(frozen=True)
class Placement:
    """Everything one run measured. ``built`` is the first repository as it was built, JPEG over gRPC."""

    model: str
    pictures: int
    built: Choice
    runs: tuple[ChoiceRun, ...]
    jpeg_encode_ms: float
    machine: Machine
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Way:
    choice: Choice
    sender: Callable[[], AbstractAsyncContextManager[Send]]
    pid: int


def measure_placement(
    repositories: Sequence[Path],
    model: str,
    pictures_folder: Path,
    instances: Sequence[int],
    settings: PlacementSettings,
    on_progress: OnProgress,
) -> Placement:
    """Measure every repository with every number of instances, picture and transport.

    Raises :class:`MeasurementError`: no pictures, no such detector, a server that does not start or fails.
    """
    pictures = read_pictures(pictures_folder)
    raw, jpeg_encode_ms = _raw_pictures(pictures)
    built = Choice(
        _label(repositories[0], model, repositories), instances_of(repositories[0], model), JPEG, GRPC
    )
    counts = sorted({*instances, built.instances})
    notes = [corpus_note(len(pictures))]
    with ExitStack() as stack:
        ways: list[_Way] = []
        for repository in repositories:
            for count in counts:
                label = _label(repository, model, repositories)
                on_progress(f"starting {label} with {count} instances")
                folder = Path(stack.enter_context(TemporaryDirectory(prefix="detserve-placement-")))
                copy = copy_with_instances(repository, model, count, folder)
                server, shares = _served(stack, copy, model)
                sent = {JPEG: pictures, RAW: raw}
                for picture, encoded in sent.items():
                    ways += stack.enter_context(
                        _ways(Choice(label, count, picture, GRPC), server, model, encoded, shares=shares)
                    )
        if not any(way.choice.transport == SHARED_MEMORY for way in ways):
            notes.append(f"shared memory was not measured: this detserve serve has no {_ALLOW}")
        with TritonQueries(Endpoint.parse(server.grpc_url)) as queries:
            machine = this_machine(triton=queries.version())
        runs = _rounds(ways, settings, on_progress)
    return Placement(
        model, len(pictures), built, tuple(runs), jpeg_encode_ms, machine, tuple(filter(None, notes))
    )


def recommend(runs: Sequence[ChoiceRun], built: Choice, jpeg_encode_ms: float) -> list[str]:
    """Two sentences: what to take for encoded pictures, and what for raw frames.

    What was built is kept unless another choice beats it by more than the rounds of both differ.
    """
    speeds: dict[Choice, list[float]] = {}
    for run in runs:
        speeds.setdefault(run.choice, []).append(run.pictures_per_s)
    encoded = {choice: own for choice, own in speeds.items() if choice.picture == JPEG}
    best = max(encoded, key=lambda choice: median(encoded[choice]))
    gain = median(encoded[best]) / median(encoded[built]) - 1
    noise = spread(encoded[best]) + spread(encoded[built])
    if best == built or gain <= noise:
        kept = "nothing is faster" if best == built else f"{_named(best)} gains {gain:.0%}, within the noise"
        sentences = [
            f"Encoded pictures: keep {_named(built)}, {median(encoded[built]):.1f} pictures/s; {kept}."
        ]
        taken = built
    else:
        sentences = [
            f"Encoded pictures: take {_named(best)}, {median(encoded[best]):.1f} pictures/s, {gain:.0%} more "
            f"than {_named(built)} as built; the rounds differ by {noise:.0%}."
        ]
        taken = best
    raw = {choice: own for choice, own in speeds.items() if choice.picture == RAW}
    if raw:
        sentences.append(_for_raw(raw, median(encoded[taken]), jpeg_encode_ms))
    return sentences


def _for_raw(raw: dict[Choice, list[float]], jpeg_per_s: float, jpeg_encode_ms: float) -> str:
    best = max(raw, key=lambda choice: median(raw[choice]))
    raw_per_s = median(raw[best])
    # A sender on this host takes the time from the server's cores.
    encoded_per_s = 1 / (1 / jpeg_per_s + jpeg_encode_ms / 1e3 / cores())
    if raw_per_s >= encoded_per_s:
        return (
            f"Raw frames: send them raw over {best.transport}, {raw_per_s:.1f} pictures/s; "
            f"a JPEG first takes {jpeg_encode_ms:.1f} ms of a core of the sender."
        )
    return (
        f"Raw frames: make JPEGs of them, {jpeg_encode_ms:.1f} ms of a core of the sender; the best raw way, "
        f"{best.transport}, serves {raw_per_s:.1f} pictures/s where JPEG serves {jpeg_per_s:.1f}."
    )


def _named(choice: Choice) -> str:
    return f"{choice.placement} with {choice.instances} instances over {choice.transport}"


def _label(repository: Path, model: str, repositories: Sequence[Path]) -> str:
    kind = placement_of(repository, model)
    kinds = [placement_of(other, model) for other in repositories]
    return kind if kinds.count(kind) == 1 else f"{kind} of {repository}"


def _raw_pictures(pictures: Sequence[bytes]) -> tuple[list[bytes], float]:
    """The pictures as BMP, and how long one JPEG of the same pixels takes to make."""
    try:
        import cv2
    except ImportError:
        raise MissingExtra("opencv-python", "perf") from None
    raw, encode_s = [], []
    for picture in pictures:
        pixels = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
        if pixels is None:
            raise MeasurementError(f"a picture of {len(picture)} bytes cannot be decoded; take it away")
        raw.append(cv2.imencode(".bmp", pixels)[1].tobytes())
        started_s = time.perf_counter()
        cv2.imencode(".jpg", pixels)
        encode_s.append(time.perf_counter() - started_s)
    return raw, 1e3 * mean(encode_s)


def _served(stack: ExitStack, repository: Path, model: str) -> tuple[Served, bool]:
    """The server, and whether it takes shared memory."""
    try:
        return stack.enter_context(served(repository, model, _ALLOW)), True
    except MeasurementError as error:
        if "No such option" not in str(error):
            raise
    return stack.enter_context(served(repository, model)), False


@contextmanager
def _ways(
    choice: Choice, server: Served, model: str, pictures: Sequence[bytes], *, shares: bool
) -> Iterator[list[_Way]]:
    """The same pictures over every transport."""
    address = Endpoint.parse(server.grpc_url).address
    path = f"/v2/models/{model}/infer"

    def way(transport: str, sender: Callable[[], AbstractAsyncContextManager[Send]]) -> _Way:
        return _Way(Choice(choice.placement, choice.instances, choice.picture, transport), sender, server.pid)

    ways = [
        way(GRPC, partial(grpc_sender, address, triton_grpc_requests(model, pictures))),
        way(HTTP, partial(http_sender, server.http_url, path, triton_http_requests(pictures))),
    ]
    if not shares:
        yield ways
        return
    with requests_in_shared_memory(address, model, pictures) as requests:
        yield [*ways, way(SHARED_MEMORY, partial(grpc_sender, address, requests))]


def _rounds(ways: Sequence[_Way], settings: PlacementSettings, on_progress: OnProgress) -> list[ChoiceRun]:
    runs = []
    for number in range(1, settings.repeats + 1):
        for way in ways:
            on_progress(f"round {number}: {_named(way.choice)}, {way.choice.picture}")
            runs.append(asyncio.run(_measure(way, settings)))
    return runs


async def _measure(way: _Way, settings: PlacementSettings) -> ChoiceRun:
    async with way.sender() as send:
        await closed_loop(send, concurrency=settings.concurrency, requests=_WARM_UP_REQUESTS)
        before_s = tree_cpu_s(way.pid)
        run = await closed_loop(send, concurrency=settings.concurrency, requests=settings.requests)
        cpu_s = tree_cpu_s(way.pid) - before_s
    if run.errors:
        raise MeasurementError(f"{_named(way.choice)} failed a request: {run.errors[0]}")
    p50_ms, p99_ms = np.percentile(run.latencies_ms, (50, 99))
    cpu_ms = 1e3 * cpu_s / settings.requests
    return ChoiceRun(way.choice, run.pictures_per_s, float(p50_ms), float(p99_ms), cpu_ms)
