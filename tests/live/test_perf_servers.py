"""Compare and placement on real servers. Short: the speed itself is not checked."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc import service_pb2

from detserve_core.endpoint import Endpoint
from detserve_perf.capacity.placement import JPEG, PlacementSettings, measure_placement
from detserve_perf.capacity.placement_report import placement_report
from detserve_perf.capacity.variants import copy_with_instances, instances_of
from detserve_perf.errors import MeasurementError
from detserve_perf.load.corpus import read_pictures
from detserve_perf.load.generator import grpc_sender
from detserve_perf.load.picture_region import requests_in_shared_memory
from detserve_perf.load.wire_requests import triton_grpc_requests
from detserve_perf.peers.environment import PEERS, peer_python
from detserve_perf.server.served import served
from detserve_perf.speed.compare import ContestSettings, compare
from detserve_perf.speed.compare_report import compare_report
from tests.live.conftest import DEFAULT, SAMPLES

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
def test_every_peer_answers_what_detserve_answers(repository: Path, tmp_path: Path, peer: str) -> None:
    """The comparison itself refuses a server that finds anything else than the in-process reference."""
    result = compare(repository, DEFAULT, SAMPLES, [peer], ROUNDS, _quiet)
    assert [(run.name, run.protocol) for run in result.runs] == [
        ("detserve", "gRPC"),
        ("detserve", "HTTP"),
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


def test_a_server_that_finds_something_else_is_no_contestant(repository: Path, tmp_path: Path) -> None:
    """Its step files find nothing in process, where its card cannot be changed behind the server's back."""
    with pytest.raises(MeasurementError, match="no detector"):
        compare(tmp_path, DEFAULT, SAMPLES, [], ROUNDS, _quiet)
    other = copy_with_instances(repository, DEFAULT, 1, tmp_path / "copy")
    manifest = other / DEFAULT / "detserve.json"
    data: dict[str, Any] = json.loads(manifest.read_text())
    data["card"]["thresholds"]["score"] = 0.999
    manifest.write_text(json.dumps(data))
    with pytest.raises(
        MeasurementError, match=r"detserve \(gRPC\) finds \d+ objects .* in-process reference"
    ):
        compare(other, DEFAULT, SAMPLES, [], ROUNDS, _quiet)


def test_placement_measures_every_way(repository: Path, tmp_path: Path) -> None:
    settings = PlacementSettings(concurrency=2, requests=6, repeats=2)
    result = measure_placement([repository], DEFAULT, SAMPLES, [1, 2], settings, _quiet)
    counts = {1, 2, instances_of(repository, DEFAULT)}
    transports = {run.choice.transport for run in result.runs}
    assert {"gRPC", "HTTP"} <= transports
    assert len(result.runs) == 2 * len(counts) * 2 * len(transports)
    assert result.built.picture == JPEG
    assert any(run.choice == result.built for run in result.runs)
    report = placement_report(result, settings)
    assert report.notes[0].startswith("Encoded pictures: ")
    assert report.notes[1].startswith("Raw frames: ")
    report.write(tmp_path)


async def _answers(address: str, requests: Sequence[bytes]) -> list[tuple[bytes, ...]]:
    """The output tensors of every request."""
    async with grpc_sender(address, requests) as send:
        answers = [await send(number) for number in range(len(requests))]
    return [
        tuple(service_pb2.ModelInferResponse.FromString(answer).raw_output_contents) for answer in answers
    ]


def test_shared_memory_carries_the_same_pictures(repository: Path) -> None:
    pictures = read_pictures(SAMPLES)
    with served(repository, DEFAULT, "--allow-shared-memory") as server:
        address = Endpoint.parse(server.grpc_url).address
        sent = asyncio.run(_answers(address, triton_grpc_requests(DEFAULT, pictures)))
        with requests_in_shared_memory(address, DEFAULT, pictures) as requests:
            shared = asyncio.run(_answers(address, requests))
    assert len(set(sent)) > len(pictures) / 2, "the pictures differ"
    assert shared == sent
    assert not [
        path for path in Path("/dev/shm").iterdir() if path.name.startswith(f"detserve_perf_{os.getpid()}_")
    ]


def test_another_ensemble_runs_beside(repository: Path) -> None:
    result = compare(repository, DEFAULT, SAMPLES, [], ROUNDS, _quiet, also=["codes_ssd"])
    assert [run.name for run in result.runs] == ["detserve", "detserve", "detserve, codes_ssd"] * 2


def test_an_unknown_peer_is_named(repository: Path) -> None:
    with pytest.raises(MeasurementError, match="'flask'; expected some of fastapi, litserve"):
        compare(repository, DEFAULT, SAMPLES, ["flask"], ROUNDS, _quiet)
