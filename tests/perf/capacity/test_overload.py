"""The overload generator against a small gRPC server that counts."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2
from typer.testing import CliRunner

from detserve_core.endpoint import Endpoint
from detserve_perf.capacity.fill import CALLERS
from detserve_perf.capacity.overload import OverloadRun, overload
from detserve_perf.capacity.overload_report import overload_report, percentile
from detserve_perf.commands import app
from detserve_perf.errors import MeasurementError
from detserve_perf.load.generator import Run, Sample, poisson_arrivals_s
from detserve_perf.load.wire_requests import triton_grpc_requests
from detserve_perf.report.machine import this_machine
from tests.perf.conftest import served


@dataclass
class Counting:
    """A server of 10 ms a request that says no as Triton does: to two of three while it is ``full``."""

    url: str = ""
    full: bool = False
    came: int = 0
    refused: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def behave(self, request: service_pb2.ModelInferRequest, context: grpc.ServicerContext) -> bytes:
        assert request.raw_input_contents[0][4:] in (b"one", b"two")
        with self.lock:
            self.came += self.full
            refuse = self.full and self.came % 3 != 0
            self.refused += refuse
        if refuse:
            context.abort(grpc.StatusCode.UNAVAILABLE, "[request id: 1] Exceeds maximum queue size")
        time.sleep(0.01)
        return b""


@pytest.fixture
def counting() -> Iterator[Counting]:
    server = Counting()
    for url in served(server.behave):
        server.url = url
        yield server


@pytest.fixture
def broken() -> Iterator[str]:
    yield from served(lambda request, context: context.abort(grpc.StatusCode.INTERNAL, "no such weights"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for name in ("one", "two"):
        (tmp_path / f"{name}.jpg").write_bytes(name.encode())
    return tmp_path


def test_a_load_is_a_multiple_of_capacity_and_what_is_refused_is_counted(counting, pictures) -> None:
    """Whatever the capacity is: each request that is due is sent, and is an answer or a refusal."""
    phases: list[str] = []

    def on_progress(phase: str) -> None:
        phases.append(phase)
        counting.full = phase == "3 times capacity"

    duration_s = 0.5
    half, thrice = overload(Endpoint.parse(counting.url), "m", pictures, [0.5, 3], duration_s, on_progress)
    assert phases == ["warm-up", "capacity", "0.5 times capacity", "capacity", "3 times capacity", "capacity"]
    assert 0 < half.peak_per_s <= CALLERS / 0.01
    assert thrice.offered_per_s == pytest.approx(6 * half.offered_per_s)
    for seed, run in enumerate((half, thrice)):
        assert len(run.run.samples) == len(poisson_arrivals_s(run.offered_per_s, duration_s, seed))
        assert run.goodput_per_s <= len(run.latencies_ms(refused=False)) / duration_s
    assert not half.latencies_ms(refused=True)
    assert min(half.latencies_ms(refused=False)) >= 10
    assert len(thrice.run.samples) == counting.came
    assert len(thrice.latencies_ms(refused=True)) == counting.refused
    assert len(thrice.latencies_ms(refused=False)) == counting.came - counting.refused > 0


def test_any_other_failure_ends_the_measurement(broken, pictures) -> None:
    with pytest.raises(MeasurementError, match="a request failed during the measurement: .*no such weights"):
        overload(Endpoint.parse(broken), "m", pictures, [1], 0.2, lambda phase: None)


def test_a_request_is_what_triton_expects() -> None:
    (message,) = triton_grpc_requests("m", [b"picture"])
    request = service_pb2.ModelInferRequest.FromString(message)
    assert request.model_name == "m"
    assert (request.inputs[0].name, list(request.inputs[0].shape)) == ("IMAGE", [1, 1])
    assert request.raw_input_contents[0] == b"\x07\0\0\0picture"


def test_the_report_has_a_row_for_every_load() -> None:
    samples = (
        Sample(0.5, 0.1),
        Sample(0.8, 0.3),  # comes when the load is over
        Sample(0.5, 0.002, "UNAVAILABLE: Exceeds maximum queue size"),
        Sample(0.5, 0.004, "UNAVAILABLE: Exceeds maximum queue size"),
    )
    run = OverloadRun(2, 200, 1, 2, Run(samples, took_s=2, cpu_s=0.5))
    report = overload_report([run], "grpc://h:1", "m", 10, 24, this_machine(triton="2.51.0"))
    assert ("capacity", "answers to 24 callers that wait, before and after each load") in report.facts
    (row,) = report.tables[0].rows
    assert row == [2, 200, 1, 0.5, 50, 4.0, 4.0, 300.0, 300.0, 0.25]
    assert "rejected" not in [percentile([], 0.5)]
    assert "| 0.50 |" in report.to_markdown()


@pytest.mark.parametrize("loads", ["", "0", "a", "-1", "1,,2", "nan"])
def test_loads_that_make_no_sense(loads: str, pictures) -> None:
    arguments = ["--url", "grpc://h:1", "--model", "m", "--pictures", str(pictures), "--output", "o"]
    result = CliRunner().invoke(app, ["overload", *arguments, "--loads", loads])
    assert isinstance(result.exception, MeasurementError)
