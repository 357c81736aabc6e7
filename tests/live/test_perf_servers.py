"""Compare on real servers. Short: the speed itself is not checked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from detserve_core.errors import RepositoryError
from detserve_perf.errors import MeasurementError
from detserve_perf.peers.environment import PEERS, peer_python
from detserve_perf.speed.compare import ContestSettings, compare
from detserve_perf.speed.compare_report import compare_report
from tests.live.conftest import COMMITTED, DEFAULT, SAMPLES

ROUNDS = ContestSettings(concurrency=2, requests=8, repeats=2)


def _quiet(phase: str) -> None:
    pass


@pytest.fixture(scope="session")
def peers_environment() -> None:
    try:
        peer_python(PEERS, "onnxruntime", _quiet)
    except MeasurementError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.usefixtures("peers_environment")
@pytest.mark.parametrize("peer", PEERS)
def test_every_peer_answers_what_detserve_answers(tmp_path: Path, peer: str) -> None:
    """The comparison itself refuses a server that finds anything else than the in-process reference."""
    result = compare(COMMITTED, DEFAULT, SAMPLES, [peer], ROUNDS, _quiet)
    assert [(run.name, run.protocol) for run in result.runs] == [
        ("detserve", "gRPC"),
        ("detserve", "HTTP"),
        ("detserve", "REST"),
        (peer, "HTTP"),
    ] * 2
    assert len(result.references) == 3
    assert all(run.pictures_per_s > 0 and run.p50_ms <= run.p99_ms for run in result.runs)
    assert all(run.peak_bytes > 20_000_000 and run.server_cpu_ms > 0 for run in result.runs)
    report = compare_report(result, ROUNDS)
    report.write(tmp_path)
    table = json.loads((tmp_path / "compare.json").read_text())["table"]
    assert table[0]["server"] == "in-process"
    assert {row["server"] for row in table} == {"in-process", "detserve", peer}


def test_a_server_that_finds_something_else_is_no_contestant(tmp_path: Path) -> None:
    """Its step files find nothing in process, where its card cannot be changed behind the server's back."""
    with pytest.raises(RepositoryError, match="no detector"):
        compare(tmp_path, DEFAULT, SAMPLES, [], ROUNDS, _quiet)
    other = tmp_path / "copy"
    for name in (DEFAULT, f"{DEFAULT}_pipeline"):
        shutil.copytree(COMMITTED / name, other / name)
    manifest = other / DEFAULT / "detserve.json"
    data: dict[str, Any] = json.loads(manifest.read_text())
    data["card"]["thresholds"]["score"] = 0.999
    manifest.write_text(json.dumps(data))
    with pytest.raises(
        MeasurementError, match=r"detserve \(gRPC\) finds \d+ objects .* in-process reference"
    ):
        compare(other, DEFAULT, SAMPLES, [], ROUNDS, _quiet)


def test_another_ensemble_runs_beside() -> None:
    result = compare(COMMITTED, DEFAULT, SAMPLES, [], ROUNDS, _quiet, also=["codes_ssd"])
    assert [run.name for run in result.runs] == [
        "detserve",
        "detserve",
        "detserve",
        "detserve, codes_ssd",
    ] * 2


def test_an_unknown_peer_is_named() -> None:
    with pytest.raises(MeasurementError, match="'flask'; expected some of fastapi, litserve"):
        compare(COMMITTED, DEFAULT, SAMPLES, ["flask"], ROUNDS, _quiet)
