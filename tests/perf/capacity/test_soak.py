"""When a process has grown, from samples alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detserve_core.machine.processes import ProcessMemory
from detserve_perf.capacity.soak import MemorySample, Soak, courses, read_duration_s, what_is_wrong
from detserve_perf.errors import MeasurementError
from detserve_perf.report.machine import this_machine

MIB = 2**20


FULL = "UNAVAILABLE: in ensemble 'codes', exceeds maximum queue size of 32 pictures"
BUG = "INTERNAL: in ensemble 'codes', ZeroDivisionError('division by zero')"


def _soak(
    *rss_mib: float, gone_at: int | None = None, answered: int = 1000, errors: tuple[str, ...] = ()
) -> Soak:
    samples = tuple(
        MemorySample(
            float(time_s),
            (
                *([] if time_s == gone_at else [ProcessMemory(1, "stub", int(size * MIB), None)]),
                ProcessMemory(2, "tritonserver", 50 * MIB, 40 * MIB),
            ),
        )
        for time_s, size in enumerate(rss_mib)
    )
    machine = this_machine(triton="2.51.0")
    return Soak("codes", len(rss_mib), 5.0, 0.8, 100, 80, answered, errors, samples, machine, ())


def test_growth_before_it_is_warm_does_not_count() -> None:
    assert what_is_wrong(_soak(*range(10, 15), *[100] * 30)) is None


def test_growth_after_that_does() -> None:
    grown = _soak(*[100] * 20, *[104] * 20)
    assert what_is_wrong(grown) == "stub (1) grew by 4.0% after the warm-up, more than the 3% allowed"
    assert what_is_wrong(grown, bound=0.05) is None
    assert what_is_wrong(_soak(*[100] * 20, *[60] * 20)) is None  # less is not a leak


def test_a_process_that_was_replaced_is_no_pass() -> None:
    assert "changed during the soak: stub (1)" in str(what_is_wrong(_soak(*[100] * 40, gone_at=20)))


def test_a_failed_request_is_no_pass() -> None:
    assert what_is_wrong(_soak(*[100] * 40, errors=(FULL, BUG, BUG))) == (
        f"2 of 1003 requests failed, the first: {BUG}"
    )
    gone = "UNAVAILABLE: failed to connect to all addresses; last error: UNKNOWN: connection refused"
    assert "1 of 1001 requests failed" in str(what_is_wrong(_soak(*[100] * 40, errors=(gone,))))


def test_a_request_refused_by_a_full_queue_is_none() -> None:
    late = "UNAVAILABLE: request timeout expired: no thread was free for 5 s"
    assert what_is_wrong(_soak(*[100] * 40, errors=(FULL, late))) is None


@pytest.mark.parametrize("errors", [(), (FULL,) * 7])
def test_a_server_that_answers_nothing_is_no_pass(errors: tuple[str, ...]) -> None:
    wrong = str(what_is_wrong(_soak(*[100] * 40, answered=0, errors=errors)))
    assert wrong == f"no request was answered; {len(errors)} were refused by a full queue"


def test_too_few_samples_say_nothing() -> None:
    with pytest.raises(MeasurementError, match="3 samples after the warm-up are too few"):
        courses(_soak(*[100] * 8).samples, 5)


@given(st.floats(1.04, 3))
def test_a_leak_of_any_size_above_the_bound_is_found(factor: float) -> None:
    course = courses(_soak(*[100 + (factor - 1) * 100 * step / 60 for step in range(72)]).samples, 5)[0]
    assert course.name == "stub"
    assert course.growth == pytest.approx(
        (100 + (factor - 1) * 100 * 71 / 60) / (100 + (factor - 1) * 100 * 7 / 60) - 1
    )


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("20m", 1200), ("1.5h", 5400)])
def test_durations_are_read(text: str, seconds: float) -> None:
    assert read_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "20", "m", "-1m", "0s", "20 min"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(MeasurementError, match="expected e.g. 90s, 20m or 1h"):
        read_duration_s(text)
