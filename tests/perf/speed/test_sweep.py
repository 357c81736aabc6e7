"""Ratios, medians and spreads of a sweep, without a server."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detserve_core.endpoint import is_loopback
from detserve_perf.commands.sweep import _numbers
from detserve_perf.errors import MeasurementError
from detserve_perf.load.perf_analyzer_run import LoadPoint, LoadResult
from detserve_perf.report.machine import this_machine
from detserve_perf.speed.reference import ReferenceRun
from detserve_perf.speed.step_times import StepTimes
from detserve_perf.speed.sweep import (
    PointRun,
    Sweep,
    SweepSettings,
    contention_note,
    spread,
    with_ratios,
)
from detserve_perf.speed.sweep_report import speed_table, steps_table, sweep_report

ONE, FOUR = LoadPoint(1), LoadPoint(4)


def run(point: LoadPoint, pictures_per_s: float, queue_ms: float = 1.0) -> PointRun:
    step = StepTimes("codes_detector", 30, queue_ms, 0.1, 9.0, 0.2, 1.5)
    return PointRun(point, LoadResult(pictures_per_s, 5.0, 6.0, 7.0), (step,))


RUNS = [run(ONE, 50.0), run(FOUR, 90.0), run(ONE, 60.0, 3.0), run(FOUR, 100.0)]
REFERENCES = [ReferenceRun(speed, 0.95) for speed in (100.0, 100.0, 120.0, 80.0, 120.0)]


def test_a_ratio_is_over_the_references_around_the_run() -> None:
    ratios = [one.ratio for one in with_ratios(RUNS, REFERENCES)]
    assert ratios == pytest.approx([50 / 100, 90 / 110, 60 / 100, 100 / 100])


def test_without_a_reference_there_is_no_ratio() -> None:
    assert with_ratios(RUNS, []) == RUNS
    assert [row[-2:] for row in speed_table(RUNS).rows] == [[None, None], [None, None]]


def test_a_point_is_one_row_of_medians() -> None:
    table = speed_table(with_ratios(RUNS, REFERENCES))
    assert [column.key for column in table.columns][:4] == [
        "batch",
        "concurrency",
        "pictures_per_s",
        "spread_percent",
    ]
    assert table.rows[0] == pytest.approx([1, 1, 55.0, 100 * 10 / 55, 5, 6, 7, 0.55, 100 * 0.1 / 0.55])
    assert steps_table(RUNS, "codes").rows[0] == [1, 1, "detector", 2.0, 0.1, 9.0, 0.2, 1.5]


@given(st.floats(0.1, 1e3), st.lists(st.floats(0.1, 1e3), min_size=1, max_size=9))
def test_a_spread_does_not_depend_on_the_unit(unit: float, values: list[float]) -> None:
    assert spread([unit * value for value in values]) == pytest.approx(spread(values), abs=1e-9)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.3.2.1", "::1"])
def test_this_machine_is_known(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["triton", "10.0.0.1", "localhost.example.org", "0.0.0.0"])  # noqa: S104
def test_another_machine_is_known(host: str) -> None:
    assert not is_loopback(host)


def test_the_report_names_the_machine_and_holds_every_run() -> None:
    settings = SweepSettings((ONE, FOUR), requests=30, repeats=2)
    machine = this_machine(triton="2.51.0")
    runs = tuple(with_ratios(RUNS, REFERENCES))
    result = Sweep("codes", "grpc://localhost:8001", 20, runs, tuple(REFERENCES), machine, ("noisy",))
    report = sweep_report(result, settings)
    page = report.to_markdown()
    assert machine.cpu in page
    assert "100.0 pictures/s" in page
    assert "- noisy" in page
    data = json.loads(json.dumps(report.data))
    assert len(data["runs"]) == 4
    assert data["table"][0]["pictures_per_s"] == 55.0
    assert data["machine"]["triton"] == "2.51.0"


def test_a_busy_machine_is_said() -> None:
    assert contention_note([]) is None
    assert contention_note(REFERENCES) is None
    busy = [ReferenceRun(50.0, share) for share in (0.5, 0.6, 0.95)]
    assert "got 60% of the cores' time" in str(contention_note(busy))


def test_progress_counts_every_phase() -> None:
    settings = SweepSettings((ONE, FOUR), requests=30, repeats=2)
    assert settings.phases(reference=False) == 5
    assert settings.phases(reference=True) == 10


def test_lists_of_numbers_are_read() -> None:
    assert _numbers("1, 2,8,2", "--concurrency") == [1, 2, 8]
    for wrong in ("", "x", "1,,2", "0", "-1"):
        with pytest.raises(MeasurementError, match="--batch is"):
            _numbers(wrong, "--batch")
