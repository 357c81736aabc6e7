"""Retries against a clock of the test: the pauses, the budget, the patience."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detserve_client import ModelNotFound, ServerUnavailable
from detserve_client.engine.retries import Retries

REFUSED = ServerUnavailable("refused")
GONE = ModelNotFound("has no available versions")


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def answered_before(clock: Clock, patience_s: float = 30) -> Retries:
    retries = Retries(patience_s, clock)
    retries.answered()
    return retries


def test_without_an_outage_nothing_waits() -> None:
    assert Retries(30, Clock()).wait_s() == 0


def test_one_at_a_time_tries_during_an_outage() -> None:
    clock = Clock()
    retries = answered_before(clock)
    assert retries.failed(clock.now_s, REFUSED)
    for longest_s in (0.1, 0.2, 0.4, 0.8, 1.6, 2, 2):
        wait_s = retries.wait_s()
        assert longest_s / 2 <= wait_s <= longest_s
        clock.now_s += wait_s + 1e-9
        assert retries.wait_s() == 0
        assert retries.wait_s() > 0, "a second request tries at the same time"
        assert retries.failed(clock.now_s, REFUSED)
    retries.answered()
    assert [retries.wait_s() for _ in range(9)] == [0] * 9


def test_requests_that_fail_together_are_one_failure() -> None:
    clock = Clock()
    retries = answered_before(clock)
    started_s = clock.now_s
    clock.now_s += 1
    assert all(retries.failed(started_s, REFUSED) for _ in range(32))
    assert retries.wait_s() <= 0.1


def test_the_budget_is_a_hundred_and_ten_answers_earn_one() -> None:
    clock = Clock()
    retries = answered_before(clock, patience_s=1e9)
    assert [retries.failed(clock.now_s, REFUSED) for _ in range(101)] == [True] * 100 + [False]
    for _ in range(30):
        retries.answered()
    assert [retries.failed(clock.now_s, REFUSED) for _ in range(4)] == [True] * 3 + [False]


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=600))
def test_retries_never_exceed_the_budget(answers: list[bool]) -> None:
    clock = Clock()
    retries = answered_before(clock, patience_s=1e9)
    granted = 0
    for answer in answers:
        clock.now_s += 3
        if answer:
            retries.answered()
        else:
            granted += retries.failed(clock.now_s, REFUSED)
    assert granted <= 100 + 0.1 * sum(answers) + 1e-6


def test_a_long_outage_is_not_waited_for() -> None:
    clock = Clock()
    retries = answered_before(clock, patience_s=5)
    assert retries.failed(clock.now_s, REFUSED)
    clock.now_s += 10
    assert retries.wait_s() == 0, "one request tries now and then"
    assert not retries.failed(clock.now_s, REFUSED)
    with pytest.raises(ServerUnavailable, match="refused"):
        retries.wait_s()
    retries.answered()
    assert retries.wait_s() == 0


def test_a_server_that_never_answered_is_given_up_soon() -> None:
    clock = Clock()
    retries = Retries(30, clock)
    tries = 1
    while retries.failed(clock.now_s, REFUSED):
        tries += 1
        clock.now_s += retries.wait_s() + 1e-9
        assert retries.wait_s() == 0
    assert tries == 4
    assert clock.now_s < 1001


def test_a_model_that_is_gone_is_waited_for_through_a_shutdown_and_no_longer() -> None:
    clock = Clock()
    retries, began_s = answered_before(clock, patience_s=30), clock.now_s
    while retries.failed(clock.now_s, GONE):
        clock.now_s += retries.wait_s() + 1e-9
        assert retries.wait_s() == 0
    assert 5 < clock.now_s - began_s <= 8
    with pytest.raises(ModelNotFound, match="no available versions"):
        retries.wait_s()


def test_a_model_that_is_gone_after_an_outage_is_waited_for_anew() -> None:
    clock = Clock()
    retries = answered_before(clock, patience_s=30)
    assert retries.failed(clock.now_s, GONE)
    clock.now_s += 5
    assert retries.failed(clock.now_s, REFUSED)
    clock.now_s += 20
    assert retries.failed(clock.now_s, REFUSED), "the server is waited for as long as the patience"
    clock.now_s += 2
    assert retries.failed(clock.now_s, GONE)


def test_a_short_patience_is_kept_for_a_model_too() -> None:
    clock = Clock()
    retries = answered_before(clock, patience_s=1)
    assert retries.failed(clock.now_s, GONE)
    clock.now_s += 1
    assert not retries.failed(clock.now_s, GONE)
