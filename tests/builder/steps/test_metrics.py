"""What the steps count, and what is written into Triton's metrics."""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detserve_builder.steps import detserve_metrics
from detserve_builder.steps.detserve_metrics import (
    BUCKETS_S,
    OUTCOMES,
    STAGES,
    CountedSender,
    Report,
    RequestCounts,
)
from detserve_builder.steps.detserve_queue import PictureQueue

ONE = (("model", "pets"),)


class OffError(Exception):
    """What Triton raises where it keeps no metrics."""


class Metrics:
    """Of Triton's metrics what the report uses: counters of the same name and labels are one."""

    TritonModelException = OffError

    def __init__(self) -> None:
        self.values: dict[tuple[Any, ...], float] = defaultdict(float)
        self.writes: list[tuple[Any, ...]] = []
        self.warnings: list[str] = []
        self.off = False
        self.Logger = SimpleNamespace(log_warn=self.warnings.append)
        metrics = self

        class MetricFamily:
            COUNTER, GAUGE = "counter", "gauge"

            def __init__(self, name: str, description: str, kind: str) -> None:
                if metrics.off:
                    raise OffError("off")
                assert description
                self.name, self.kind = name, kind

            def Metric(self, labels: dict[str, str]) -> Metric:
                return Metric((self.name, *sorted(labels.items())), self.kind)

        class Metric:
            def __init__(self, key: tuple[Any, ...], kind: str) -> None:
                self.key, self.kind = key, kind
                metrics.values[key] += 0

            def increment(self, by: float) -> None:
                assert self.kind == "counter"
                metrics.write(self.key, metrics.values[self.key] + by)

            def set(self, value: float) -> None:
                assert self.kind == "gauge"
                metrics.write(self.key, value)

        self.MetricFamily = MetricFamily

    def write(self, key: tuple[Any, ...], value: float) -> None:
        if self.off:
            raise OffError("no shared memory")
        self.values[key] = value
        self.writes.append(key)

    def of(self, name: str, **labels: str) -> float:
        return self.values[(name, *sorted({"model": "pets", **labels}.items()))]


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> Metrics:
    monkeypatch.setattr(detserve_metrics, "PERIOD_S", 0.01)
    return Metrics()


@pytest.fixture
def report(triton: Metrics) -> Iterator[Callable[..., Report]]:
    started: list[Report] = []

    def start(*counted: Any, process: str = "pets_pipeline_0_0") -> Report:
        started.append(Report(counted, "pets_pipeline", process, triton))
        return started[-1]

    yield start
    for one in started:
        one.stop()


def _wait(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.005)


def test_the_report_writes_each_second_and_once_more_at_the_end(triton, report) -> None:  # type: ignore[no-untyped-def]
    queue = PictureQueue(1)
    running = report(queue)
    queue.enter(2)
    _wait(lambda: triton.of("detserve_queue_pictures", process="pets_pipeline_0_0") == 2)
    queue.leave(refused=False)
    assert not queue.admits(5)
    running.stop()
    assert triton.of("detserve_queue_taken_total") == 1
    assert triton.of("detserve_queue_refused_total") == 5
    assert triton.of("detserve_queue_pictures", process="pets_pipeline_0_0") == 1


def test_every_series_is_there_from_the_start(triton, report) -> None:  # type: ignore[no-untyped-def]
    """A counter that appears at 1 has no rate: its first request would never be seen."""
    report(PictureQueue(1), RequestCounts(STAGES))
    assert all(value == 0 for value in triton.values.values())
    assert _values(triton, "detserve_requests_total", "outcome") == set(OUTCOMES)
    assert _values(triton, "detserve_stage_seconds_sum", "stage") == set(STAGES)


def _values(triton: Metrics, family: str, label: str) -> set[str]:
    return {dict(labels)[label] for name, *labels in triton.values if name == family}


def test_processes_add_up_and_each_has_its_own_gauge(triton, report) -> None:  # type: ignore[no-untyped-def]
    counts, queues = [RequestCounts(STAGES), RequestCounts(STAGES)], [PictureQueue(8), PictureQueue(8)]
    reports = [
        report(queue, count, process=f"pets_pipeline_0_{index}")
        for index, (queue, count) in enumerate(zip(queues, counts, strict=True))
    ]
    for index, (queue, count) in enumerate(zip(queues, counts, strict=True)):
        queue.enter(index + 1)
        for _ in range(index + 3):
            count.count("answered", 0.1)
    for one in reports:
        one.stop()
    assert triton.of("detserve_requests_total", outcome="answered") == 7
    assert triton.of("detserve_request_seconds_count") == 7
    waiting = [triton.of("detserve_queue_pictures", process=f"pets_pipeline_0_{index}") for index in (0, 1)]
    assert waiting == [1, 2]


def test_without_metrics_the_log_says_so(triton, report) -> None:  # type: ignore[no-untyped-def]
    triton.off = True
    report(RequestCounts(STAGES)).stop()
    assert triton.warnings == ["no metrics of pets_pipeline: off"]


def test_what_could_not_be_written_is_written_later(triton, report) -> None:  # type: ignore[no-untyped-def]
    counts = RequestCounts(STAGES)
    running = report(counts)
    triton.off = True
    counts.count("refused", 0.0)
    _wait(lambda: bool(triton.warnings))
    triton.off = False
    counts.count("refused", 0.0)
    running.stop()
    assert triton.of("detserve_requests_total", outcome="refused") == 2


@given(st.lists(st.floats(0, 20), max_size=40))
def test_the_buckets_are_a_cumulative_histogram(seconds: list[float]) -> None:
    counts = RequestCounts(STAGES)
    for one in seconds:
        counts.count("answered", one)
    totals = counts.totals()
    for end in BUCKETS_S:
        expected = sum(one <= end for one in seconds)
        assert totals["detserve_request_seconds_bucket", "le", f"{end:g}"] == expected
    assert totals["detserve_request_seconds_bucket", "le", "+Inf"] == len(seconds)
    assert totals[("detserve_request_seconds_count",)] == len(seconds)
    assert totals[("detserve_request_seconds_sum",)] == pytest.approx(sum(seconds))


def test_a_scrape_in_the_middle_of_a_report_finds_no_bucket_above_a_wider_one(triton, report) -> None:  # type: ignore[no-untyped-def]
    counts = RequestCounts(STAGES)
    running = report(counts)
    counts.count("answered", 0.001)
    running.stop()
    ends = [dict(labels)["le"] for name, *labels in triton.writes if name.endswith("_bucket")]
    assert ends == ["+Inf", *(f"{end:g}" for end in reversed(BUCKETS_S))]


def test_quantiles_below_a_second_are_known_to_half_as_much_again() -> None:
    below = [end for end in BUCKETS_S if end <= 1.1]
    assert list(BUCKETS_S) == sorted(BUCKETS_S)
    assert max(wide / narrow for narrow, wide in itertools.pairwise(below)) <= 1.5 + 1e-9


class Sender:
    """A response sender that fails when told to."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.broken = False

    def send(self, response: Any, flags: int) -> None:
        if self.broken:
            raise OSError("no shared memory")
        self.sent.append((response, flags))


def test_a_request_counts_once_and_only_when_its_answer_is_sent() -> None:
    counts, sender = RequestCounts(STAGES), Sender()
    call = CountedSender(sender, counts)
    sender.broken = True
    with pytest.raises(OSError):
        call.send("outputs", 1, "answered")
    sender.broken = False
    call.send("error", 1, "failed")
    assert sender.sent == [("error", 1)]
    assert counts.outcomes == {**dict.fromkeys(OUTCOMES, 0), "failed": 1}
    assert counts.totals()[("detserve_request_seconds_count",)] == 0, "of answered requests alone"


def test_the_warm_up_is_not_counted() -> None:
    counts = RequestCounts(STAGES, warm_ups=1)
    for _ in range(3):
        CountedSender(Sender(), counts).send("outputs", 1, "answered")
    assert counts.outcomes["answered"] == 2


def test_the_first_of_three_models_counts_no_answers_and_none_of_them_their_seconds() -> None:
    first = RequestCounts(("queue", "decode"), last=False)
    last = RequestCounts(("postprocess",), first=False)
    for counts in (first, last):
        counts.count("answered")
        counts.count("refused")
        assert not [series for series in counts.totals() if "request_seconds" in series[0]]
    assert (first.outcomes["answered"], last.outcomes["answered"]) == (0, 1)
    assert (first.outcomes["refused"], last.outcomes["refused"]) == (1, 1)
