"""The largest rate whose p99 holds: against a server of a known capacity, and when there is no answer."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from detserve_core.endpoint import Endpoint
from detserve_perf.capacity.plan import RateRun, RateSweep, by_rate, largest_rate, machines_for, sweep_rates
from detserve_perf.capacity.plan_report import Wanted, plan_report
from detserve_perf.commands import app
from detserve_perf.errors import MeasurementError
from detserve_perf.report.machine import this_machine

PICTURES = [b"one", b"two"]


def swept(p99_ms: dict[float, Sequence[float | None]], others_share: float | None = 0.0) -> RateSweep:
    """Two rounds of each rate on a steady machine of 100 pictures/s."""
    runs = [
        RateRun(rate, 200, 0 if p99 is not None else 50, 5.0, p99)
        for rate, own in p99_ms.items()
        for p99 in own
    ]
    return RateSweep((100.0, 104.0, 100.0), tuple(runs), 10, others_share)


STEADY = swept({30: (10, 12), 60: (20, 24), 90: (80, None)})


@pytest.mark.parametrize(("p99_ms", "rate"), [(12, 30), (23, 30), (24, 60), (1e6, 60)])
def test_a_rate_holds_in_every_round_or_not_at_all(p99_ms: float, rate: float) -> None:
    assert largest_rate(STEADY, p99_ms) == rate


def test_a_rate_above_one_that_does_not_hold_is_not_believed() -> None:
    assert largest_rate(swept({30: (10, 10), 60: (20, 99), 90: (30, 30)}), 50) == 30


def test_no_number_of_machines_helps_where_the_smallest_rate_does_not_hold() -> None:
    with pytest.raises(
        MeasurementError, match=r"at 30\.0 pictures/s, the smallest.*it is 12\.0 ms; take a faster"
    ):
        largest_rate(STEADY, 11)


def test_an_unsteady_machine_gets_no_answer() -> None:
    moved = dataclasses.replace(STEADY, capacities_per_s=(100.0, 70.0, 100.0))
    with pytest.raises(
        MeasurementError, match=r"between 70\.0 and 100\.0 pictures/s during the sweep, 30% apart"
    ):
        largest_rate(moved, 50)
    with pytest.raises(MeasurementError, match="other programs took 40% of the cores"):
        largest_rate(swept({30: (10, 12)}, others_share=0.4), 50)


@pytest.mark.parametrize(
    ("rate", "headroom", "machines"), [(60, 0, 1), (60.1, 0, 2), (96, 0.2, 2), (97, 0.2, 3)]
)
def test_machines_keep_their_headroom(rate: float, headroom: float, machines: int) -> None:
    assert machines_for(rate, 60, headroom) == machines


def test_the_report_says_what_it_rests_on(tmp_path: Path) -> None:
    machine = this_machine(triton="2.51.0")
    report = plan_report(STEADY, Wanted(1000, 50, 0.2), PICTURES, machine, server="grpc://x:1", model="codes")
    assert {path.name for path in report.write(tmp_path)} == {
        *("plan.md", "plan.json", "plan.csv", "plan_2.csv", "plan.png")
    }
    data = json.loads((tmp_path / "plan.json").read_text())
    assert data["machines"][0]["machines"] == 21
    assert data["machines"][0]["largest_per_s"] == data["largest_per_s"] == 60
    assert [(row["offered_per_s"], row["worst_p99_ms"], row["holds"]) for row in data["rates"]] == [
        (30, 12, "yes"),
        (60, 24, "yes"),
        (90, None, "no"),
    ]
    page = (tmp_path / "plan.md").read_text()
    assert machine.cpu in page
    assert machine.date in page


def test_a_server_of_100_a_second_takes_30_and_not_300(one_at_a_time: str) -> None:
    """10 ms a request and a queue of 40: of 300 a second some are refused, however slow this machine is."""
    sweep = sweep_rates(
        Endpoint.parse(one_at_a_time),
        "codes",
        PICTURES,
        1,
        lambda phase: None,
        cores=2,
        shares=(0.3, 3),
        rounds=1,
    )
    (low,), (high,) = by_rate(sweep).values()
    assert low.offered_per_s == pytest.approx(0.3 * sweep.capacities_per_s[0])
    assert low.requests > 60
    assert low.p99_ms is not None
    assert (high.p99_ms, high.refused > 0.01 * high.requests) == (None, True)


def test_it_needs_one_server() -> None:
    options = ["plan", "--rate", "9", "--p99", "9", "--model", "m", "--pictures", "."]
    for more in ([], ["--url", "grpc://x:1", "--repository", "."]):
        with pytest.raises(
            MeasurementError, match="give one of the two: --repository to serve it here, or --url"
        ):
            CliRunner().invoke(app, options + more, catch_exceptions=False)
