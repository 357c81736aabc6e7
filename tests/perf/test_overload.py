"""The overload generator against a small gRPC server with a known capacity and queue."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2
from typer.testing import CliRunner

from detserve_perf.capacity.overload import OverloadRun, overload
from detserve_perf.capacity.overload_report import overload_report, percentile
from detserve_perf.commands import app
from detserve_perf.errors import MeasurementError
from detserve_perf.load.generator import Run, Sample
from detserve_perf.load.wire_requests import triton_grpc_requests
from detserve_perf.report.machine import this_machine
from tests.perf.conftest import SERVICE_S, served


@pytest.fixture
def broken() -> Iterator[str]:
    yield from served(lambda request, context: context.abort(grpc.StatusCode.INTERNAL, "no such weights"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for name in ("one", "two"):
        (tmp_path / f"{name}.jpg").write_bytes(name.encode())
    return tmp_path


def test_half_of_capacity_is_answered_and_of_thrice_the_excess_is_refused(one_at_a_time, pictures) -> None:
    phases: list[str] = []
    half, thrice = overload(one_at_a_time, "m", pictures, [0.5, 3], 1.5, phases.append)
    assert phases == ["warm-up", "capacity", "0.5 times capacity", "capacity", "3 times capacity", "capacity"]
    assert half.peak_per_s <= 1 / SERVICE_S
    assert half.goodput_per_s / half.offered_per_s == pytest.approx(1, abs=0.4)  # Poisson, 75 requests
    assert not half.latencies_ms(refused=True)
    assert 0.7 < thrice.goodput_per_s / thrice.peak_per_s < 1.2
    rejected = thrice.latencies_ms(refused=True)
    assert len(rejected) / len(thrice.run.samples) == pytest.approx(2 / 3, abs=0.2)
    assert percentile(thrice.latencies_ms(refused=False), 0.5) > percentile(rejected, 0.5)


def test_any_other_failure_ends_the_measurement(broken, pictures) -> None:
    with pytest.raises(MeasurementError, match="a request failed during the measurement: .*no such weights"):
        overload(broken, "m", pictures, [1], 0.2, lambda phase: None)


@pytest.mark.parametrize("url", ["https://localhost:8000", "grpcs://localhost:8001"])
def test_no_tls(url: str, pictures) -> None:
    with pytest.raises(MeasurementError, match="give the server's own grpc:// or http:// address"):
        overload(url, "m", pictures, [1], 1, lambda phase: None)


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
    report = overload_report([run], "grpc://h:1", "m", 10, this_machine(triton="2.51.0"))
    (row,) = report.tables[0].rows
    assert row == [2, 200, 1, 0.5, 50, 4.0, 4.0, 300.0, 300.0, 0.25]
    assert "rejected" not in [percentile([], 0.5)]
    assert "| 0.50 |" in report.to_markdown()


@pytest.mark.parametrize("loads", ["", "0", "a", "-1", "1,,2", "nan"])
def test_loads_that_make_no_sense(loads: str, pictures) -> None:
    arguments = ["--url", "grpc://h:1", "--model", "m", "--pictures", str(pictures), "--output", "o"]
    result = CliRunner().invoke(app, ["overload", *arguments, "--loads", loads])
    assert isinstance(result.exception, MeasurementError)
