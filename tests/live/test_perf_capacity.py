"""Soak and plan on the real server: a leak is found, a queue is predicted. Sleeping models take no CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from detserve_core.endpoint import Endpoint
from detserve_core.machine.processes import process_tree
from detserve_perf.accuracy.reference import cores
from detserve_perf.capacity.plan import busy_note, check
from detserve_perf.capacity.plan_report import plan_report
from detserve_perf.capacity.service_curve import measure_curve
from detserve_perf.capacity.soak import BOUND, Soak, courses, soak, what_is_wrong
from detserve_perf.load.corpus import read_pictures
from detserve_perf.load.wire_requests import triton_grpc_requests
from detserve_perf.server.served import served
from tests.live.conftest import DEFAULT, SAMPLES
from tests.live.sleeping_model import NAME, write_sleeper

_SERVER_BOUND = 0.06  # 32 pictures wait when the machine is busy


def _soak(repository: Path, model: str, duration_s: float) -> Soak:
    return soak(repository, model, SAMPLES, duration_s=duration_s, load=0.5, on_progress=lambda phase: None)


@pytest.mark.slow
def test_the_default_detector_does_not_leak(repository: Path) -> None:
    result = _soak(repository, DEFAULT, 40)
    late = [sample for sample in result.samples if sample.time_s >= result.duration_s / 2]
    assert what_is_wrong(replace(result, samples=tuple(late)), _SERVER_BOUND) is None
    growths = {one.name: one.growth for one in courses(late, 0)}
    assert set(growths) == {"tritonserver", "python"}, "the pipeline runs within it, detserve serve beside"
    assert growths.pop("tritonserver") < _SERVER_BOUND
    assert max(growths.values()) < BOUND, growths
    failed = len(result.errors) / (result.answered + len(result.errors))
    assert failed < 0.5, "refused at half of the capacity"


@pytest.mark.slow
def test_a_leak_is_found_and_the_command_exits_1(tmp_path: Path) -> None:
    repository = write_sleeper(tmp_path / "repository", service_s=0.005, leaks=True)
    out = tmp_path / "out"
    options = ["--repository", repository, "--model", NAME, "--pictures", SAMPLES, "--output", out]
    command = ["perf", "soak", *options, "--duration", "20s", "--load", "0.5"]
    done = subprocess.run(
        [sys.executable, "-m", "detserve.command", *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    wrong = done.stderr.splitlines()[-1]
    assert wrong.startswith("detserve: triton_python")
    assert "after the warm-up, more than the 3% allowed" in wrong
    assert (out / "soak.png").read_bytes().startswith(b"\x89PNG")
    assert {file.name for file in out.iterdir()} == {
        *("soak.md", "soak.json", "soak.csv", "soak.png"),
        "soak_samples.csv",
    }
    assert len((out / "soak_samples.csv").read_text().splitlines()) > 20
    assert json.loads((out / "soak.json").read_text())["passed"] is False


@pytest.mark.slow
def test_a_plan_predicts_what_is_measured(tmp_path: Path) -> None:
    """Threads that sleep: the queue is all there is, so the simulation must be near."""
    repository = write_sleeper(tmp_path, service_s=0.05)
    requests = triton_grpc_requests(NAME, read_pictures(SAMPLES))
    with served(repository, NAME) as server:
        curve = measure_curve(server.grpc_url, NAME, requests, 3, lambda phase: None)
        assert cores() <= curve.servers <= 2 * cores(), (
            "a closed loop of two leaves an instance idle now and then"
        )
        assert curve.queue_size == 200
        address = Endpoint.parse(server.grpc_url).address
        checks = check(address, requests, curve, lambda: curve, 10, lambda phase: None, pid=server.pid)
    assert [one.load for one in checks] == [0.3, 0.6, 0.8]
    assert not any(one.measured.errors for one in checks)
    # Now and then Triton leaves a request lying for half a second, with an instance idle: the mean of some
    # hundred is moved by that, the median is not. Neighbours only make the measured ones longer.
    least = -0.3 if busy_note(checks) is None else -0.55
    medians = [one.error(50) for one in checks]
    assert all(least < median < 0.3 for median in medians[:2]), medians
    simulated_ms = [one.simulated.mean_ms for one in checks]
    assert simulated_ms[2] > 1.25 * simulated_ms[0], "there is a queue at 80 %, on any machine"
    report = plan_report(curve, [], checks, p99_ms=100, machine=None, source="measured")
    assert len(report.data["check"]) == 3


def test_a_served_repository_is_gone_afterwards(tmp_path: Path) -> None:
    with served(write_sleeper(tmp_path, service_s=0.001), NAME) as server:
        tree = process_tree(server.pid)
        assert len(tree) >= 3
    assert not any(Path(f"/proc/{pid}").exists() for pid in tree)


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    from detserve_perf.errors import MeasurementError

    with pytest.raises(MeasurementError, match="holds no model"):
        with served(tmp_path, NAME):
            pass
