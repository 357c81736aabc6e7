"""A speed sweep: load points against the server, with the in-process reference in between.

The order is reference, point, reference, point, ..., reference. A point's ratio is its throughput over the
mean of the two references around it, so that a machine that gets slower halfway does not change it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

from detserve_client.engine.wire import card_of
from detserve_core.card import Card
from detserve_core.endpoint import Endpoint, is_loopback
from detserve_core.machine.cores import cores
from detserve_core.repository.manifest import read_manifest
from detserve_core.repository.served_steps import DetectOne, open_steps
from detserve_perf.errors import MeasurementError
from detserve_perf.load.corpus import check_pictures, corpus_note, input_data, named_pictures
from detserve_perf.load.perf_analyzer import PerfAnalyzer, find_perf_analyzer
from detserve_perf.load.perf_analyzer_run import LoadPoint, LoadResult, run_load
from detserve_perf.report.machine import Machine, this_machine
from detserve_perf.server.triton import TritonQueries
from detserve_perf.speed.reference import ReferenceRun, run_reference
from detserve_perf.speed.step_times import StepTimes, step_times

OnProgress = Callable[[str], None]
_QUIET = 0.9


@dataclass(frozen=True)
class PointRun:
    """One run of one point. ``ratio`` is served / in-process, None without a reference."""

    point: LoadPoint
    load: LoadResult
    steps: tuple[StepTimes, ...]
    ratio: float | None = None


@dataclass(frozen=True)
class Sweep:
    """Everything one sweep measured, in the order of measuring.

    ``references`` has one run more than ``runs``, or none.
    """

    model: str
    url: str
    pictures: int
    runs: tuple[PointRun, ...]
    references: tuple[ReferenceRun, ...]
    machine: Machine
    notes: tuple[str, ...]


@dataclass(frozen=True)
class SweepSettings:
    """Which points, ``requests`` per point and run, and how often everything is repeated."""

    points: tuple[LoadPoint, ...]
    requests: int
    repeats: int

    def phases(self, *, reference: bool) -> int:
        """How often ``on_progress`` of :func:`sweep` is called."""
        runs = self.repeats * len(self.points)
        return 1 + runs + (runs + 1) * reference


def sweep(
    url: str,
    model: str,
    pictures_folder: Path,
    repository: Path | None,
    settings: SweepSettings,
    on_progress: OnProgress,
) -> Sweep:
    """Measure every point; ``on_progress`` is told what comes next.

    ``repository`` is the served one, whose steps are the in-process reference; without it, or when the server
    is on another host or the network in a backend of Triton's, there is no reference and the notes say so.

    Raises :class:`MeasurementError`: no pictures, no perf_analyzer, a request that failed, a repository
    that is not the served one. Raises an :class:`~detserve_core.errors.InferenceError` when the server does
    not answer.
    """
    endpoint = _plain_endpoint(url)
    named = named_pictures(pictures_folder)
    pictures = list(named)
    with TritonQueries(endpoint) as queries, tempfile.TemporaryDirectory(prefix="detserve-perf-") as scratch:
        configs = queries.configs(model)
        config, steps = configs[model], list(configs)[1:]
        _check_batches(config, model, settings.points)
        reference, why_none = _reference(endpoint, model, repository, card_of(config, model))
        analyzer = find_perf_analyzer()
        check_pictures(named, endpoint, model)
        corpus = Path(scratch) / "corpus.json"
        corpus.write_text(input_data(pictures))
        measure = _Measurement(queries, analyzer, endpoint, model, steps, corpus, settings.requests)
        runs, references = _interleave(measure, reference, pictures, settings, on_progress)
        cached = [name for name, one in configs.items() if _has_cache(one)]
        notes = (
            corpus_note(len(pictures)),
            _cache_note(cached),
            why_none,
            contention_note(references),
            _own_queue_note(configs),
        )
        return Sweep(
            model=model,
            url=url,
            pictures=len(pictures),
            runs=tuple(runs),
            references=tuple(references),
            machine=this_machine(triton=queries.version(), perf_analyzer=str(analyzer.program)),
            notes=tuple(filter(None, notes)),
        )


@dataclass(frozen=True)
class _Measurement:
    queries: TritonQueries
    analyzer: PerfAnalyzer
    endpoint: Endpoint
    model: str
    steps: Sequence[str]
    corpus: Path
    requests: int

    def load(self, point: LoadPoint, requests: int) -> LoadResult:
        return run_load(self.analyzer, self.endpoint, self.model, self.corpus, point, requests)

    def run(self, point: LoadPoint) -> PointRun:
        watched = [self.model, *self.steps]
        before = {name: self.queries.counters(name) for name in watched}
        load = self.load(point, self.requests)
        times = step_times(before, {name: self.queries.counters(name) for name in watched})
        return PointRun(point, load, tuple(times[1:] or times))


def _interleave(
    measure: _Measurement,
    reference: list[DetectOne],
    pictures: list[bytes],
    settings: SweepSettings,
    on_progress: OnProgress,
) -> tuple[list[PointRun], list[ReferenceRun]]:
    runs: list[PointRun] = []
    references: list[ReferenceRun] = []

    def refer() -> None:
        if reference:
            on_progress("in-process reference")
            references.append(run_reference(reference, pictures, settings.requests))

    on_progress("warm-up")
    measure.load(settings.points[-1], 1)
    for point in settings.points * settings.repeats:
        refer()
        on_progress(f"concurrency {point.concurrency}, batch {point.batch}")
        runs.append(measure.run(point))
    refer()
    return with_ratios(runs, references), references


def with_ratios(runs: Sequence[PointRun], references: Sequence[ReferenceRun]) -> list[PointRun]:
    """Each run with its throughput over the mean of the references right before and after it."""
    if not references:
        return list(runs)
    around = pairwise(reference.pictures_per_s for reference in references)
    return [
        replace(run, ratio=run.load.pictures_per_s / mean(pair))
        for run, pair in zip(runs, around, strict=True)
    ]


def spread(values: Sequence[float]) -> float:
    """(largest - smallest) / median: 0.1 means that the runs differ by a tenth."""
    return (max(values) - min(values)) / median(values)


def _plain_endpoint(url: str) -> Endpoint:
    endpoint = Endpoint.parse(url)
    if endpoint.tls:
        raise MeasurementError(
            f"{url} is behind TLS; sweep needs Triton's statistics, which a gateway keeps to itself; "
            "give the server's own grpc:// or http:// address"
        )
    return endpoint


def _reference(
    endpoint: Endpoint, model: str, repository: Path | None, served_card: Card
) -> tuple[list[DetectOne], str | None]:
    if repository is None:
        return [], "no in-process reference: --repository was not given"
    if not is_loopback(endpoint.host):
        return (
            [],
            f"no in-process reference: {endpoint.host} is not this machine, so its cores are others",
        )
    built = read_manifest(repository, model)
    if built.card != served_card:
        raise MeasurementError(
            f"{repository} holds another {model} than {endpoint} serves: their cards differ; "
            "give the served repository"
        )
    if built.target != "embedded":
        return [], f"no in-process reference: {model} is for Triton's {built.target} backend, not for Python"
    return open_steps(repository, model, cores()), None


def _check_batches(config: dict[str, Any], model: str, points: Sequence[LoadPoint]) -> None:
    limit = int(config.get("max_batch_size", 0))
    largest = max(point.batch for point in points)
    if largest > max(limit, 1):
        raise MeasurementError(f"{model} takes batches of up to {limit}, got --batch {largest}")


def _has_cache(config: dict[str, Any]) -> bool:
    return bool(config.get("response_cache", {}).get("enable"))


def _cache_note(models: Sequence[str]) -> str | None:
    if not models:
        return None
    return f"the response cache of {', '.join(models)} is on: a picture sent again is answered from it"


def _own_queue_note(configs: Mapping[str, dict[str, Any]]) -> str | None:
    """Of the python backend Triton's statistics end where ``execute`` returns; the model answers later."""
    queues = [name for name, config in configs.items() if "max_waiting" in config.get("parameters", {})]
    if not queues:
        return None
    return (
        f"the times of {queues[0]} hold its own queue and the models that it calls where it runs within the "
        "server's process; elsewhere they are of handing pictures over: there it queues and computes after "
        "Triton's clock"
    )


def contention_note(references: Sequence[ReferenceRun]) -> str | None:
    """What to say when the reference did not have its cores to itself, None when it did."""
    if not references or (share := median(run.cores_share for run in references)) >= _QUIET:
        return None
    return (
        f"the in-process reference got {share:.0%} of the cores' time: something else used this machine, "
        "so the ratio is not a fair one; measure again on a quiet machine"
    )
