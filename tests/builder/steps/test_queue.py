"""The pipeline's queue: its bound and its integral."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detserve_builder.steps import detserve_queue
from detserve_builder.steps.detserve_queue import PictureQueue

SUM_OF_WAITS = ("detserve_queue_picture_seconds_total",)
WAITING = ("detserve_queue_pictures",)


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
        assert queue.totals()[SUM_OF_WAITS] == pytest.approx(sum(wait for _, wait in visits), abs=1e-6)
        assert queue.totals()[WAITING] == 0


def test_what_still_waits_is_in_the_integral(clock: SimpleNamespace) -> None:
    queue = PictureQueue(8)
    queue.enter(3)
    clock.now_s += 2
    assert queue.totals()[SUM_OF_WAITS] == 6
