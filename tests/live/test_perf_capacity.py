"""Soak and plan on the real server: a leak is found, rates are sent. Sleeping models take no CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from detserve_core.endpoint import Endpoint
from detserve_core.machine.cores import cores
from detserve_core.machine.processes import process_tree
from detserve_perf.capacity.plan import sweep_rates
from detserve_perf.capacity.soak import BOUND, Soak, courses, soak, what_is_wrong
from detserve_perf.load.corpus import read_pictures
from detserve_perf.server.served import served
from tests.live.conftest import COMMITTED, DEFAULT, SAMPLES
from tests.live.sleeping_model import NAME, write_sleeper

_SERVER_BOUND = 0.06  # 32 pictures wait when the machine is busy


def _soak(repository: Path, model: str, duration_s: float) -> Soak:
    return soak(repository, model, SAMPLES, duration_s=duration_s, load=0.5, on_progress=lambda phase: None)


@pytest.mark.slow
def test_the_default_detector_does_not_leak() -> None:
    result = _soak(COMMITTED, DEFAULT, 40)
    late = [sample for sample in result.samples if sample.time_s >= result.duration_s / 2]
    assert what_is_wrong(replace(result, samples=tuple(late)), _SERVER_BOUND) is None
    growths = {one.name: one.growth for one in courses(late, 0)}
    assert set(growths) == {"tritonserver", "python"}, "the pipeline runs within it, detserve serve beside"
    assert growths.pop("tritonserver") < _SERVER_BOUND
    assert max(growths.values()) < BOUND, growths
    failed = len(result.errors) / (result.answered + len(result.errors))
    assert failed < 0.5, "refused at half of the capacity"


@pytest.mark.parametrize("command", ["soak", "compare", "plan"])
def test_a_bad_picture_is_named_before_the_load(tmp_path: Path, command: str) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "bad.jpg").write_bytes(b"no picture")
    options = ["--repository", COMMITTED, "--model", DEFAULT, "--pictures", pictures]
    options += {"soak": ["--output", tmp_path], "compare": ["--output", tmp_path, "--peers", ""]}.get(
        command, []
    )
    options += ["--rate", "1", "--p99", "100"] if command == "plan" else []
    done = subprocess.run(
        [sys.executable, "-m", "detserve.command", "perf", command, *map(str, options)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("detserve: 1 of 1 pictures cannot be measured with")
    assert f"{pictures / 'bad.jpg'}: the picture is rejected: not a JPEG" in last


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
def test_a_plan_sends_rates_to_a_server_of_its_own(tmp_path: Path) -> None:
    repository = write_sleeper(tmp_path, service_s=0.005)
    with served(repository, NAME) as server:
        sweep = sweep_rates(
            Endpoint.parse(server.grpc_url),
            NAME,
            read_pictures(SAMPLES),
            1,
            lambda phase: None,
            cores=cores(),
            pid=server.pid,
            shares=(0.3, 0.6),
            rounds=1,
        )
    assert [run.offered_per_s / sweep.capacities_per_s[0] for run in sweep.runs] == pytest.approx([0.3, 0.6])
    assert all(run.requests >= 50 and run.refused == 0 for run in sweep.runs)
    assert all(run.p99_ms is not None and run.p99_ms >= 5 for run in sweep.runs)
    assert sweep.others_share is not None
    assert -0.1 < sweep.others_share < 1


def test_a_served_repository_is_gone_afterwards(tmp_path: Path) -> None:
    with served(write_sleeper(tmp_path, service_s=0.001), NAME) as server:
        tree = process_tree(server.pid)
        assert len(tree) >= 3
    assert not any(Path(f"/proc/{pid}").exists() for pid in tree)


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    from detserve_perf.errors import MeasurementError

    with pytest.raises(MeasurementError, match="has no model"):
        with served(tmp_path, NAME):
            pass
