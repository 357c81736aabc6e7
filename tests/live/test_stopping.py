"""A Triton that is stopped answers what it has and finalizes its models; no idle connection holds it."""

from __future__ import annotations

import http.client
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

import numpy as np
import pytest
import tritonclient.grpc

from detserve_builder.triton_config import Placement
from detserve_client import Client, Detections, Security
from detserve_client.engine.faults import unready
from detserve_client.engine.wire import DetectionRequest
from detserve_client.transports import GrpcTransport
from detserve_core.endpoint import Endpoint
from detserve_core.errors import InferenceError
from detserve_server.audit.record import record_of
from detserve_server.gateway.certificates.folder import CertificateFolder
from detserve_server.gateway.guarded import guarded_server
from detserve_server.gateway.keys.key import new_key
from detserve_server.gateway.keys.store import KeyFile, change_keys
from detserve_server.triton.embedded import RunningServer, embedded_server
from tests.live.conftest import COMMITTED, DEFAULT
from tests.live.echo_repository import NAME, write_echo_repository
from tests.live.gateway.conftest import own_certificates, wait_for
from tests.live.sleeping_detector import NAME as SLEEPY
from tests.live.sleeping_detector import build_sleeping
from tests.needs import needs_nginx

TELLING = """

class TritonPythonModel(TritonPythonModel):
    def execute(self, requests):
        open({begun!r}, "w").close()
        return super().execute(requests)

    def finalize(self):
        open({finalized!r}, "w").close()
"""


@dataclass(frozen=True)
class Telling:
    """The repository of :mod:`tests.live.echo_repository`, and the files its model writes at the time."""

    repository: Path
    begun: Path
    finalized: Path


@pytest.fixture
def telling(tmp_path: Path) -> Telling:
    made = Telling(write_echo_repository(tmp_path / "repository"), tmp_path / "begun", tmp_path / "finalized")
    with (made.repository / f"{NAME}_step/1/model.py").open("a") as model:
        model.write(TELLING.format(begun=str(made.begun), finalized=str(made.finalized)))
    return made


def _ended_well(server: RunningServer, telling: Telling) -> None:
    assert server._process.returncode == 0
    assert telling.finalized.exists()


def test_an_idle_http_connection_holds_no_stop(telling: Telling) -> None:
    with embedded_server(telling.repository) as server:
        connection = http.client.HTTPConnection(server.http_url.partition("://")[2])
        connection.request("GET", "/v2/health/ready")
        connection.getresponse().read()
    _ended_well(server, telling)
    assert connection.sock.recv(1) == b"", "the server has closed it"


def test_a_pipeline_ends_well_with_clients_that_stay(sample: Path) -> None:
    with embedded_server(COMMITTED, models=[DEFAULT]) as server:
        clients = [Client(url, DEFAULT) for url in (server.grpc_url, server.http_url)]
        assert all(len(client.detect(sample)) for client in clients)
    assert server._process.returncode == 0
    for client in clients:
        client.close()


def test_an_open_stream_of_grpc_holds_no_stop(telling: Telling) -> None:
    answers: Queue[object] = Queue()
    with embedded_server(telling.repository) as server:
        connection = tritonclient.grpc.InferenceServerClient(server.grpc_url.partition("://")[2])
        connection.start_stream(lambda result, error: answers.put(error or result))
        picture = tritonclient.grpc.InferInput("IMAGE", [1, 1], "BYTES")
        picture.set_data_from_numpy(np.array([[b"7"]], dtype=object))
        connection.async_stream_infer(NAME, [picture])
        assert not isinstance(answers.get(timeout=20), Exception)
    connection.close()
    _ended_well(server, telling)


def _four_in_flight(client: Client, telling: Telling, pool: ThreadPoolExecutor) -> list[Future[Detections]]:
    client.card()
    numbers = [pool.submit(client.detect, b"%d 700" % number) for number in range(4)]
    wait_for(telling.begun.exists)
    time.sleep(0.5)  # three wait in the queue
    return numbers


def _read(numbers: list[Future[Detections]]) -> list[float]:
    return [number.result().boxes[0][0] for number in numbers]


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_what_is_in_flight_is_answered(telling: Telling, protocol: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        with embedded_server(telling.repository) as server:
            client = Client(server.grpc_url if protocol == "grpc" else server.http_url, NAME)
            numbers = _four_in_flight(client, telling, pool)
        assert _read(numbers) == [0, 1, 2, 3]
    client.close()
    _ended_well(server, telling)


def test_a_detector_that_is_called_no_more_is_told_as_unavailable(tmp_path: Path, sample: Path) -> None:
    """Triton 2.51 lets no model call another while it waits for what came by gRPC."""
    repository = build_sleeping(tmp_path / "repository", sleep_s=0.7, placement=Placement.PIPELINE)

    def outcome(endpoint: Endpoint) -> str:
        transport = GrpcTransport(endpoint)  # a client would send what is refused again
        try:
            transport.infer(DetectionRequest(SLEEPY, (sample.read_bytes(),), {}), 20)
        except InferenceError as error:
            return f"{type(error).__name__}: {error}"
        return "answered"

    with ThreadPoolExecutor(20) as pool:
        with embedded_server(repository) as server:
            endpoint = Endpoint.parse(server.grpc_url)
            assert outcome(endpoint) == "answered"
            outcomes = [pool.submit(outcome, endpoint) for _ in range(20)]
            time.sleep(0.5)
        found = {each.result() for each in outcomes}
    assert server._process.returncode == 0
    assert "answered" in found
    assert found <= {"answered", f"ServerUnavailable: {unready(url=str(endpoint))}"}


@needs_nginx
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_the_gateway_answers_what_it_has_before_triton_ends(
    telling: Telling, tmp_path: Path, protocol: str
) -> None:
    tls = CertificateFolder(tmp_path / "tls")
    own_certificates(tls)
    key, record = new_key("shop")
    change_keys(tmp_path / "keys.json", lambda _: KeyFile(keys=(record,)))
    serving = guarded_server(
        telling.repository, tls=tls.gateway, keys=tmp_path / "keys.json", access_log=tmp_path / "access.jsonl"
    )
    with ThreadPoolExecutor(4) as pool:
        with serving as guarded:
            triton, gateway = guarded.triton, guarded.gateway
            url = gateway.grpc_url if protocol == "grpc" else gateway.http_url
            client = Client(url, NAME, security=Security(api_key=key, ca=tls.authority))
            numbers = _four_in_flight(client, telling, pool)
        assert _read(numbers) == [0, 1, 2, 3]
    client.close()
    assert gateway._process.returncode == 0
    _ended_well(triton, telling)
    outcomes = [record_of(line)["outcome"] for line in (tmp_path / "access.jsonl").read_bytes().splitlines()]
    assert set(outcomes) == {"ok"}, "no client had to send anything again"
