"""The simulated queue against what queueing theory knows in closed form."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detserve_perf.capacity.plan import Demand, largest_rate, replicas_for
from detserve_perf.capacity.queueing import Replica, simulate
from detserve_perf.errors import MeasurementError
from detserve_perf.load.generator import poisson_arrivals_s

_RANDOM = np.random.default_rng(5)
_EXPONENTIAL_S = _RANDOM.exponential(0.02, 50_000)


def _mm_c_mean_ms(rate: float, service_s: float, servers: int) -> float:
    """Mean time in an M/M/c system, Erlang C."""
    offered = rate * service_s
    tail = offered**servers / math.factorial(servers) * servers / (servers - offered)
    waits = tail / (sum(offered**k / math.factorial(k) for k in range(servers)) + tail)
    return 1e3 * (service_s + waits * service_s / (servers - offered))


@pytest.mark.parametrize("servers", [1, 2, 4])
@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_random_arrivals_and_exponential_service_are_erlang_c(servers: int, load: float) -> None:
    replica = Replica(_EXPONENTIAL_S, (1.0,) * servers)
    rate = load * replica.capacity_per_s
    waited = simulate(replica, poisson_arrivals_s(rate, 30_000 / rate, seed=2), seed=3)
    expected_ms = _mm_c_mean_ms(rate, float(_EXPONENTIAL_S.mean()), servers)
    assert waited.mean_ms == pytest.approx(expected_ms, rel=0.08)
    assert waited.mean_wait_ms == pytest.approx(waited.mean_ms - 1e3 * _EXPONENTIAL_S.mean(), abs=0.3)
    assert waited.refused == 0


def test_fixed_service_waits_half_as_long_as_exponential() -> None:
    """Pollaczek-Khinchine: M/D/1 waits half of what M/M/1 waits."""
    replica = Replica(np.array([0.01]), (1.0,))
    waited = simulate(replica, poisson_arrivals_s(70, 1000, seed=1), seed=1)
    assert waited.mean_ms == pytest.approx(10 * (1 + 0.7 / (2 * 0.3)), rel=0.05)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 4), st.integers(1, 8), st.floats(0.1, 3))
def test_a_bounded_queue_bounds_the_wait(servers: int, queue: int, load: float) -> None:
    replica = Replica(np.array([0.01]), (1.0,) * servers, queue)
    arrivals = poisson_arrivals_s(
        load * replica.capacity_per_s, 500 / (load * replica.capacity_per_s), seed=1
    )
    waited = simulate(replica, arrivals, seed=1)
    assert len(waited.latencies_ms) + waited.refused == len(arrivals)
    assert waited.latencies_ms.max(initial=0) <= 10 * (2 + queue / servers) + 1e-6


def test_refused_requests_count_as_never_answered() -> None:
    replica = Replica(np.array([1.0]), (1.0,), queue_size=1)
    waited = simulate(replica, [0, 0.1, 0.2, 0.3], seed=1)
    assert waited.refused == 2
    assert waited.percentile_ms(50) == pytest.approx(1900)
    assert waited.percentile_ms(99) == math.inf


def test_who_is_not_alone_goes_slower() -> None:
    """The first has 9 of its 10 ms left when the second comes: 27 ms for both at a third of the speed."""
    replica = Replica(np.array([0.01]), (1.0, 1 / 3))
    waited = simulate(replica, [0, 0.001, 1.0], seed=1)
    assert sorted(waited.latencies_ms) == pytest.approx([10, 28, 28])
    assert not waited.waits_ms.any()


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_processor_sharing_knows_only_the_mean_of_the_service(load: float) -> None:
    """M/G/1-PS: mean service / (1 - load), whatever the distribution (Kleinrock, 1976)."""
    shared = tuple(1 / k for k in range(1, 200))
    for work_s in (np.array([0.01]), np.array([0.001, 0.019])):
        rate = load / 0.01
        waited = simulate(Replica(work_s, shared), poisson_arrivals_s(rate, 40_000 / rate, seed=2), seed=3)
        assert waited.mean_ms == pytest.approx(10 / (1 - load), rel=0.08)


def test_the_largest_rate_holds_and_a_little_more_does_not() -> None:
    replica = Replica(_EXPONENTIAL_S, (1.0, 1.0))
    rate = largest_rate(replica, p99_ms=120)
    for factor, holds in ((0.9, True), (1.1, False)):
        arrivals = poisson_arrivals_s(factor * rate, 30_000 / rate, seed=9)
        assert (simulate(replica, arrivals, seed=4).percentile_ms(99) <= 120) is holds


def test_replicas_are_the_fewest_that_hold() -> None:
    replica = Replica(np.full(10, 0.02), (1.0, 1.0), queue_size=64)
    rate = largest_rate(replica, p99_ms=80)
    demands = [Demand("a", 0.9 * rate), Demand("b", 2.5 * rate), Demand("c", 1e6 * rate)]
    answers = replicas_for(replica, demands, 80, picture_bytes=125_000)
    assert [answer.replicas for answer in answers] == [1, 1, 3, 1_000_000]
    assert all(answer.p99_ms <= 80 * 1.02 for answer in answers)
    assert answers[0].pictures_per_s_each == rate
    assert answers[1].network_mbit_per_s == pytest.approx(0.9 * rate)


def test_a_p99_below_the_service_time_is_refused() -> None:
    with pytest.raises(MeasurementError, match=r"cannot be had with any number of replicas.*20\.0 ms"):
        largest_rate(Replica(np.array([0.02]), (1.0,)), p99_ms=15)
