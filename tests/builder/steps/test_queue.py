"""The pipeline's queue: its bound, its integral, and what is written into Triton's metrics."""

from __future__ import annotations

import time
from collections import defaultdict
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detserve_builder.steps import detserve_queue
from detserve_builder.steps.detserve_queue import METRICS, PictureQueue, QueueReport


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now_s=50.0)
    monkeypatch.setattr(detserve_queue.time, "monotonic", lambda: clock.now_s)
    return clock


def test_a_full_queue_refuses_a_request_as_a_whole() -> None:
    queue = PictureQueue(2)
    queue.enter(1)
    assert queue.admits(3), "one request may pass the bound; what comes after it may not"
    queue.enter(3)
    assert not queue.admits(2)
    assert (queue.waiting, queue.refused) == (4, 2)
    for _ in range(3):
        queue.leave(refused=False)
    assert queue.admits(1)


def test_a_picture_that_waited_too_long_counts_as_refused() -> None:
    queue = PictureQueue(2)
    queue.enter(1)
    queue.leave(refused=True)
    assert (queue.waiting, queue.taken, queue.refused) == (0, 1, 1)


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 5)), min_size=1, max_size=30))
def test_the_integral_is_the_sum_of_the_waits(visits: list[tuple[float, float]]) -> None:
    """Little's law: whatever the order, waiting pictures over time are the waits summed."""
    with pytest.MonkeyPatch.context() as patch:
        now_s = 0.0
        patch.setattr(detserve_queue.time, "monotonic", lambda: now_s)
        queue = PictureQueue(len(visits))
        changes = [(came_s, 1) for came_s, _ in visits] + [(came_s + wait_s, -1) for came_s, wait_s in visits]
        for at_s, change in sorted(changes, key=lambda one: (one[0], -one[1])):
            now_s = at_s
            if change > 0:
                queue.enter(1)
            else:
                queue.leave(refused=False)
        assert queue.totals()["picture_seconds"] == pytest.approx(sum(wait for _, wait in visits), abs=1e-6)
        assert queue.totals()["waiting"] == 0


def test_what_still_waits_is_in_the_integral(clock: SimpleNamespace) -> None:
    queue = PictureQueue(8)
    queue.enter(3)
    clock.now_s += 2
    assert queue.totals()["picture_seconds"] == 6


class Family:
    """Of Triton's MetricFamily what the report uses."""

    COUNTER, GAUGE = "counter", "gauge"
    values: ClassVar[dict[str, float]] = defaultdict(float)

    def __init__(self, name: str, description: str, kind: str) -> None:
        self.name, self.kind = name, kind

    def Metric(self, labels: dict[str, str]) -> Family:
        assert labels == {"model": "pets_pipeline"}
        return self

    def increment(self, by: float) -> None:
        assert self.kind == self.COUNTER
        Family.values[self.name] += by

    def set(self, value: float) -> None:
        assert self.kind == self.GAUGE
        Family.values[self.name] = value


def test_the_report_writes_each_second_and_once_more_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detserve_queue, "PERIOD_S", 0.01)
    Family.values.clear()
    queue = PictureQueue(1)
    triton: Any = SimpleNamespace(MetricFamily=Family)
    report = QueueReport(queue, {"model": "pets_pipeline"}, triton)
    queue.enter(2)
    end_s = time.monotonic() + 5
    while Family.values["detserve_queue_pictures"] != 2 and time.monotonic() < end_s:
        time.sleep(0.005)
    queue.leave(refused=False)
    assert not queue.admits(5)
    report.stop()
    assert {name for _, name, *_ in METRICS} == set(Family.values)
    assert Family.values["detserve_queue_taken_total"] == 1
    assert Family.values["detserve_queue_refused_total"] == 5
    assert Family.values["detserve_queue_pictures"] == 1
