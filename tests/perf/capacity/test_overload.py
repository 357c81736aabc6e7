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

from detserve_core.endpoint import Endpoint
from detserve_perf.capacity.overload import CALLERS, overload
from detserve_perf.errors import MeasurementError
from detserve_perf.load.generator import poisson_arrivals_s
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
