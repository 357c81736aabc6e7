"""The same detector behind other servers, measured in turn: in-process, A, B, C, in-process, A, B, C, ...

All servers run at once and idle while another is measured; one generator loads them all. What they answer is
compared with the in-process reference before anything is timed, so that every row does the same work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from detserve_core.endpoint import Endpoint
from detserve_core.machine.cores import cores
from detserve_core.machine.processes import every, total_bytes, tree_cpu_s, tree_memory
from detserve_core.repository.manifest import read_manifest
from detserve_core.repository.served_steps import DetectOne, open_steps
from detserve_perf.errors import MeasurementError
from detserve_perf.load.callers import Connect, callers, grpc_call, http_call
from detserve_perf.load.corpus import check_pictures, corpus_note, named_pictures
from detserve_perf.load.generator import RequestFailed, Run
from detserve_perf.load.wire_requests import (
    Found,
    posted_requests,
    read_rest,
    read_triton_grpc,
    read_triton_http,
    triton_grpc_requests,
    triton_http_requests,
)
from detserve_perf.peers.environment import check_peers, peer_python
from detserve_perf.peers.peer_server import running_peer
from detserve_perf.report.machine import Machine, this_machine
from detserve_perf.server.served import ServedRepository, ServedRest, served, served_rest
from detserve_perf.server.triton import TritonQueries
from detserve_perf.speed.reference import ReferenceRun, run_reference
from detserve_perf.speed.sweep import contention_note

OnProgress = Callable[[str], None]
_CHECKED_PICTURES = 16
_WARM_UP_REQUESTS = 32
_MEMORY_EVERY_S = 1.0
_BOX_TOLERANCE_PX = 0.1
_SCORE_TOLERANCE = 1e-3
_IDLE_CORES = 0.02
_IDLE_S = 2.0


@dataclass(frozen=True)
class Contestant:
    """A running server: how a caller gets to it, how to read its answers, and the first of its processes."""

    name: str
    protocol: str
    connect: Connect
    read: Callable[[bytes], Found]
    pids: tuple[int, ...]

    def cpu_s(self) -> float:
        """The CPU seconds that its processes have used."""
        return sum(tree_cpu_s(pid) for pid in self.pids)

    def memory_bytes(self) -> int:
        """The memory that its processes have."""
        return sum(total_bytes(tree_memory(pid)) for pid in self.pids)


@dataclass(frozen=True)
class ContestRun:
    """One contestant in one round. Throughput ``ratio`` is over the in-process runs around the round."""

    name: str
    protocol: str
    round: int
    pictures_per_s: float
    p50_ms: float
    p99_ms: float
    peak_bytes: int
    server_cpu_ms: float
    generator_cpu_ms: float
    ratio: float


@dataclass(frozen=True)
class ContestSettings:
    """``concurrency`` requests in flight, ``requests`` per contestant and round."""

    concurrency: int
    requests: int
    repeats: int


@dataclass(frozen=True)
class Contest:
    """Everything one comparison measured, in the order of measuring."""

    model: str
    pictures: int
    runs: tuple[ContestRun, ...]
    references: tuple[ReferenceRun, ...]
    machine: Machine
    notes: tuple[str, ...]


def compare(
    repository: Path,
    model: str,
    pictures_folder: Path,
    peers: Sequence[str],
    settings: ContestSettings,
    on_progress: OnProgress,
    also: Sequence[str] = (),
) -> Contest:
    """Serve ``model`` of ``repository`` by ourselves and by ``peers``, and measure all of them.

    ``also`` are other ensembles of the repository, e.g. another precision, served by ourselves over gRPC.

    Raises :class:`MeasurementError`: no pictures, an unknown peer, a server that does not start, fails a
    request or answers anything else than the in-process reference.
    """
    peers = check_peers(peers)
    named = named_pictures(pictures_folder)
    pictures = list(named)
    reference = open_steps(repository, model, cores())
    others = {name: open_steps(repository, name, 1)[0] for name in also}
    python = peer_python(peers, read_manifest(repository, model).runtime, on_progress) if peers else Path()
    with ExitStack() as stack:
        on_progress("starting detserve")
        own = stack.enter_context(served(repository, model))
        check_pictures(named, Endpoint.parse(own.grpc_url), model)
        contestants = _ours(own, model, pictures)
        contestants.append(_rest(stack.enter_context(served_rest(own.http_url)), own, model, pictures))
        with TritonQueries(Endpoint.parse(own.grpc_url)) as queries:
            triton = queries.version()
        for name in peers:
            on_progress(f"starting {name}")
            contestants.append(stack.enter_context(_peer(name, python, repository, model, pictures)))
        on_progress("comparing answers")
        detections = _check_answers(contestants, reference[0], pictures)
        for name, detect in others.items():
            on_progress(f"starting detserve with {name}")
            other = stack.enter_context(served(repository, name))
            over_grpc = _ours(other, name, pictures)[:1]
            _check_answers(over_grpc, detect, pictures)
            contestants += [replace(one, name=f"detserve, {name}") for one in over_grpc]
        idle_note = _idle_note(contestants)
        runs, references = _rounds(contestants, reference, pictures, settings, on_progress)
    nothing_note = None if detections else "the pictures checked have no detection, so only that was compared"
    notes = (corpus_note(len(pictures)), nothing_note, contention_note(references), idle_note)
    machine = this_machine(triton=triton)
    return Contest(model, len(pictures), tuple(runs), tuple(references), machine, tuple(filter(None, notes)))


def _ours(own: ServedRepository, model: str, pictures: Sequence[bytes]) -> list[Contestant]:
    over_grpc = partial(grpc_call, own.grpc_url, triton_grpc_requests(model, pictures))
    over_http = partial(http_call, own.http_url, f"/v2/models/{model}/infer", triton_http_requests(pictures))
    return [
        Contestant("detserve", "gRPC", over_grpc, read_triton_grpc, (own.pid,)),
        Contestant("detserve", "HTTP", over_http, read_triton_http, (own.pid,)),
    ]


def _rest(rest: ServedRest, own: ServedRepository, model: str, pictures: Sequence[bytes]) -> Contestant:
    connect = partial(http_call, rest.url, f"/v1/models/{model}/detect", posted_requests(pictures))
    return Contestant("detserve", "REST", connect, read_rest, (rest.pid, own.pid))


@contextmanager
def _peer(
    name: str, python: Path, repository: Path, model: str, pictures: Sequence[bytes]
) -> Iterator[Contestant]:
    with running_peer(name, python, repository, model, pictures, cores()) as peer:
        connect = partial(http_call, peer.url, peer.path, peer.requests)
        yield Contestant(name, "HTTP", connect, peer.read, (peer.pid,))


def _check_answers(contestants: Sequence[Contestant], detect: DetectOne, pictures: Sequence[bytes]) -> int:
    """How many detections the checked pictures hold; raises when a contestant finds others."""
    checked = pictures[:_CHECKED_PICTURES]
    expected = [_reference_found(detect(picture)) for picture in checked]
    for contestant in contestants:
        answers = _answers(contestant, len(checked))
        for number, (answer, wanted) in enumerate(zip(answers, expected, strict=True)):
            if not _agree(answer, wanted):
                raise MeasurementError(
                    f"{contestant.name} ({contestant.protocol}) finds {len(answer[1])} objects in picture "
                    f"{number}, others than the {len(wanted[1])} of the in-process reference; "
                    "what does other work cannot be compared"
                )
    return sum(len(found[1]) for found in expected)


def _answers(contestant: Contestant, count: int) -> list[Found]:
    with contestant.connect() as call:
        try:
            return [contestant.read(call(number)) for number in range(count)]
        except RequestFailed as failure:
            raise _failed(contestant, str(failure)) from None


def _reference_found(outputs: Any) -> Found:
    num, boxes, scores, classes = outputs
    return boxes[: num[0]], scores[: num[0]], classes[: num[0]]


def _agree(one: Found, other: Found) -> bool:
    return (
        np.array_equal(one[2], other[2])
        and np.allclose(one[0], other[0], atol=_BOX_TOLERANCE_PX)
        and np.allclose(one[1], other[1], atol=_SCORE_TOLERANCE)
    )


def _rounds(
    contestants: Sequence[Contestant],
    reference: list[DetectOne],
    pictures: list[bytes],
    settings: ContestSettings,
    on_progress: OnProgress,
) -> tuple[list[ContestRun], list[ReferenceRun]]:
    references: list[ReferenceRun] = []
    measured: list[tuple[int, Contestant, Run, int, float]] = []

    def refer() -> None:
        on_progress("in-process reference")
        references.append(run_reference(reference, pictures, settings.requests))

    for number in range(settings.repeats):
        refer()
        for contestant in contestants:
            on_progress(f"{contestant.name} over {contestant.protocol}")
            measured.append((number, contestant, *_measure(contestant, settings)))
    refer()
    around = [mean(pair) for pair in pairwise(reference.pictures_per_s for reference in references)]
    runs = [_contest_run(*one, in_process=around[one[0]]) for one in measured]
    return runs, references


def _idle_note(contestants: Sequence[Contestant]) -> str | None:
    """What to say when servers that nobody asks anything take CPU time from the one that is measured."""
    names = {contestant.pids[0]: contestant.name for contestant in contestants}
    before_s = {pid: tree_cpu_s(pid) for pid in names}
    time.sleep(_IDLE_S)
    shares = {pid: (tree_cpu_s(pid) - before_s[pid]) / _IDLE_S for pid in names}
    restless = [f"{names[pid]} {share:.0%}" for pid, share in shares.items() if share > _IDLE_CORES]
    return f"idle servers take CPU time of a core: {', '.join(restless)}" if restless else None


def _measure(contestant: Contestant, settings: ContestSettings) -> tuple[Run, int, float]:
    """One loaded run, the most memory its processes took and the CPU seconds they used."""
    peak_bytes = 0

    def look() -> None:
        nonlocal peak_bytes
        peak_bytes = max(peak_bytes, contestant.memory_bytes())

    with every(_MEMORY_EVERY_S, look), callers(contestant.connect, settings.concurrency) as send:
        warm = send(_WARM_UP_REQUESTS)
        before_s = contestant.cpu_s()
        run = send(settings.requests)
        used_s = contestant.cpu_s() - before_s
    errors = warm.errors + run.errors
    if errors:
        raise _failed(contestant, errors[0])
    return run, peak_bytes, used_s


def _contest_run(
    number: int, contestant: Contestant, run: Run, peak_bytes: int, cpu_s: float, *, in_process: float
) -> ContestRun:
    p50_ms, p99_ms = np.percentile(run.latencies_ms, (50, 99))
    count = len(run.samples)
    return ContestRun(
        name=contestant.name,
        protocol=contestant.protocol,
        round=number,
        pictures_per_s=run.pictures_per_s,
        p50_ms=float(p50_ms),
        p99_ms=float(p99_ms),
        peak_bytes=peak_bytes,
        server_cpu_ms=1e3 * cpu_s / count,
        generator_cpu_ms=1e3 * run.cpu_s / count,
        ratio=run.pictures_per_s / in_process,
    )


def _failed(contestant: Contestant, reason: str) -> MeasurementError:
    return MeasurementError(f"{contestant.name} over {contestant.protocol} failed a request: {reason}")
