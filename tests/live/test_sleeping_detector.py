"""What reaches a detector that takes no CPU, in number: its own statistics say what it computed.

How fast it is answered is a figure of `make bench`; here two builds are compared in one run.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import urllib3

from detserve_builder.triton_config import Placement
from detserve_core.endpoint import Endpoint
from detserve_perf.load.corpus import read_pictures
from detserve_perf.load.generator import Run, closed_loop, grpc_sender, is_refusal
from detserve_perf.load.wire_requests import triton_grpc_requests
from detserve_server.triton.embedded import RunningServer, embedded_server
from tests.live.conftest import SAMPLES
from tests.live.sleeping_detector import NAME, build_sleeping

BATCH_S = 0.2
PLACES = {"own": False, "server": True}


@pytest.fixture(scope="module", params=list(PLACES))
def server(request, tmp_path_factory) -> Iterator[RunningServer]:
    """A pipeline that calls a detector of 200 ms a batch, in both places where python models may run."""
    folder = tmp_path_factory.mktemp("sleeping") / "repository"
    within = PLACES[request.param]
    build_sleeping(folder, sleep_s=BATCH_S, placement=Placement.PIPELINE, within_server=within)
    with embedded_server(folder) as running:
        assert running.steps_run.startswith("within the server's process" if within else "in their own")
        yield running


def computed(server: RunningServer) -> int:
    """How many pictures the detector has computed since it is there."""
    text = urllib3.request("GET", f"{server.http_url}/v2/models/{NAME}_detector/stats").data
    return int(json.loads(text)["model_stats"][0]["inference_count"])


def load(server: RunningServer, *, in_flight: int, requests: int) -> Run:
    async def send_them() -> Run:
        messages = triton_grpc_requests(NAME, read_pictures(SAMPLES))
        async with grpc_sender(Endpoint.parse(server.grpc_url), messages) as send:
            return await closed_loop(send, concurrency=in_flight, requests=requests)

    return asyncio.run(send_them())


def picture() -> grpcclient.InferInput:
    tensor = grpcclient.InferInput("IMAGE", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[sorted(SAMPLES.glob("*.jpg"))[0].read_bytes()]], dtype=object))
    return tensor


def test_triton_batches_what_the_pipeline_asks_and_each_answer_is_computed_once(server) -> None:
    before = computed(server)
    run = load(server, in_flight=24, requests=120)
    assert run.errors == []
    assert computed(server) - before == 120
    assert run.took_s < 120 * BATCH_S / 2, "in full batches it takes an eighth"


def test_what_finds_no_room_is_refused_and_not_computed(server) -> None:
    before = computed(server)
    run = load(server, in_flight=128, requests=300)
    assert run.errors
    assert all(is_refusal(error) for error in run.errors)
    assert computed(server) - before == len(run.latencies_ms) == 300 - len(run.errors)


def test_what_is_over_its_time_is_not_computed(server) -> None:
    """16 are at the detector and some decoded; the others wait for longer than they may."""
    before, told = computed(server), []
    with grpcclient.InferenceServerClient(server.grpc_url.removeprefix("grpc://")) as connection:
        for _ in range(32):
            connection.async_infer(
                NAME, [picture()], lambda result, error: told.append(error), timeout=int(BATCH_S * 0.8e6)
            )
        while len(told) < 32:
            time.sleep(0.05)
    expired = [error for error in told if error is not None]
    assert expired
    assert all("request timeout expired" in error.message() for error in expired)
    assert computed(server) - before == 32 - len(expired)


def test_what_nobody_waits_for_any_more_is_not_computed(server) -> None:
    """To the pipeline: Triton does not tell the steps of an ensemble that the caller has gone."""
    before, told = computed(server), []
    with grpcclient.InferenceServerClient(server.grpc_url.removeprefix("grpc://")) as connection:
        calls = [
            connection.async_infer(f"{NAME}_pipeline", [picture()], lambda result, error: told.append(error))
            for _ in range(48)
        ]
        time.sleep(BATCH_S / 2)
        for call in calls:
            call.cancel()
        while len(told) < 48:
            time.sleep(0.05)
    deadline_s = time.monotonic() + 60
    while cancelled(server) == 0 and time.monotonic() < deadline_s:
        time.sleep(0.1)
    time.sleep(3 * BATCH_S)
    assert computed(server) - before <= 48 - 16


def cancelled(server: RunningServer) -> float:
    """What the pipeline counts as asked by callers that had gone."""
    text = urllib3.request("GET", server.metrics_url).data.decode()
    lines = [line for line in text.splitlines() if line.startswith("detserve_requests_total")]
    return sum(float(line.split()[-1]) for line in lines if 'outcome="cancelled"' in line)
