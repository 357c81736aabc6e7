"""The perf harness on each placement of a detector: which models it looks at, and what it counts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import urllib3

from detserve_builder.triton_config import Placement
from detserve_core.endpoint import Endpoint
from detserve_perf.capacity.fill import callers_that_fill
from detserve_perf.capacity.overload import overload
from detserve_perf.capacity.plan import sweep_rates
from detserve_perf.capacity.soak import soak
from detserve_perf.load.corpus import read_pictures
from detserve_perf.load.generator import is_refusal
from detserve_perf.load.perf_analyzer_run import LoadPoint
from detserve_perf.server.triton import TritonQueries
from detserve_perf.speed.sweep import SweepSettings, sweep
from detserve_server.triton.embedded import RunningServer, embedded_server
from tests.live.conftest import COMMITTED, DEFAULT, SAMPLES
from tests.live.sleeping_detector import NAME, build_sleeping

STEPS = {
    "three models": ["preprocess", "detector", "postprocess"],
    "a pipeline that calls": ["pipeline", "detector"],
    "a pipeline that calls, within the server": ["pipeline", "detector"],
    "one pipeline": ["pipeline"],
}


class Served(NamedTuple):
    server: RunningServer
    repository: Path
    model: str
    steps: list[str]

    def computed(self) -> int:
        """How many pictures the network has computed since it is there."""
        network = "detector" if "detector" in self.steps else "pipeline"
        url = f"{self.server.http_url}/v2/models/{self.model}_{network}/stats"
        return int(json.loads(urllib3.request("GET", url).data)["model_stats"][0]["inference_count"])


def _repository(placement: str, folder: Path) -> tuple[Path, str]:
    if placement == "one pipeline":
        return COMMITTED, DEFAULT
    steps = Placement.STEPS if placement == "three models" else Placement.PIPELINE
    within = placement.endswith("within the server")
    return build_sleeping(folder, sleep_s=0.05, placement=steps, within_server=within), NAME


@pytest.fixture(scope="module", params=list(STEPS))
def placed(request, tmp_path_factory) -> Iterator[Served]:
    repository, model = _repository(request.param, tmp_path_factory.mktemp("placed") / "repository")
    with embedded_server(repository, models=[model]) as server:
        yield Served(server, repository, model, STEPS[request.param])


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_the_harness_finds_every_model_of_a_picture_s_way(placed: Served, protocol: str) -> None:
    url = placed.server.grpc_url if protocol == "grpc" else placed.server.http_url
    with TritonQueries(Endpoint.parse(url)) as queries:
        configs = queries.configs(placed.model)
    assert list(configs) == [placed.model, *(f"{placed.model}_{step}" for step in placed.steps)]
    assert callers_that_fill(configs) == (8 if placed.model == DEFAULT else 24)


def test_overload_counts_each_request_as_an_answer_or_a_refusal(placed: Served) -> None:
    """With as many callers as fill the detector; the network computes what is answered, and nothing twice."""
    endpoint = Endpoint.parse(placed.server.grpc_url)
    with TritonQueries(endpoint) as queries:
        callers = callers_that_fill(queries.configs(placed.model))
    before = placed.computed()
    (run,) = overload(endpoint, placed.model, SAMPLES, [4], 1, lambda phase: None, callers=callers)
    answered, refused = (len(run.latencies_ms(refused=refused)) for refused in (False, True))
    assert answered + refused == len(run.run.samples)
    assert answered > 0
    assert run.peak_per_s > 0
    in_closed_loops = placed.computed() - before - answered
    assert in_closed_loops >= 3 * callers, "warm-up, before and after: each caller was answered"


@pytest.mark.usefixtures("perf_analyzer")
def test_a_sweep_has_a_row_for_each_model_of_the_way(placed: Served) -> None:
    settings = SweepSettings((LoadPoint(16, 1),), 100, 1)
    found = sweep(
        placed.server.http_url, placed.model, SAMPLES, placed.repository, settings, lambda phase: None
    )
    (run,) = found.runs
    assert [step.model for step in run.steps] == [f"{placed.model}_{step}" for step in placed.steps]
    assert all(step.requests >= 100 for step in run.steps)
    assert (run.ratio is not None) == (placed.model == DEFAULT)
    why_none = "no in-process reference: sleepy is for Triton's onnxruntime backend, not for Python"
    assert (why_none in found.notes) == (placed.model == NAME)
    assert any(
        note.startswith(f"the times of {placed.model}_{placed.steps[0]} hold its") for note in found.notes
    )


@pytest.mark.slow
def test_a_rate_is_sent_to_each_placement(placed: Served) -> None:
    endpoint, pictures = Endpoint.parse(placed.server.grpc_url), read_pictures(SAMPLES)
    found = sweep_rates(
        endpoint, placed.model, pictures, 1, lambda phase: None, cores=1, shares=(0.3,), rounds=1, callers=12
    )
    (run,) = found.runs
    assert run.requests >= 50
    assert found.callers == 12


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["three models", "a pipeline that calls"])
def test_a_soak_watches_the_process_of_each_python_model(placement: str, tmp_path: Path) -> None:
    repository, model = _repository(placement, tmp_path / "repository")
    result = soak(repository, model, SAMPLES, duration_s=10, load=0.3, on_progress=lambda phase: None)
    assert result.answered > 0
    assert all(is_refusal(error) for error in result.errors)
    stubs = [one for one in result.samples[-1].processes if one.name.startswith("triton_python")]
    assert len(stubs) == len(STEPS[placement])
