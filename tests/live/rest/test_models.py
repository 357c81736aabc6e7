"""What the service says of its detectors and of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from detserve_client import Client
from detserve_core.machine.ports import choose_ports
from detserve_server.triton.embedded import embedded_server
from tests.live.conftest import COMMITTED, DEFAULT
from tests.live.gateway.conftest import wait_for
from tests.live.rest.rest_server import Rest, running_rest


def test_the_detectors_are_those_that_the_client_lists(rest: Rest, server) -> None:
    with Client(server.grpc_url, DEFAULT) as client:
        names, card = client.models(), client.card()
    listed = rest.ask("GET", "/v1/models").json()["models"]
    assert [one["name"] for one in listed] == names
    one = rest.ask("GET", f"/v1/models/{DEFAULT}").json()
    assert one in listed
    assert one["labels"] == card.labels
    assert one["input"] == {"width": 416, "height": 416}
    assert one["thresholds"] == {"score": 0.5, "iou": 0.45, "max": 100}
    assert one["precision"] == "fp32"
    assert one["origin"]["license"] == "Apache-2.0"


def test_health(rest: Rest) -> None:
    for path, expected in (
        ("/v1/health", {"live": True, "ready": True}),
        ("/v1/health/ready", {"live": True, "ready": True}),
        ("/v1/health/live", {"live": True}),
    ):
        answer = rest.ask("GET", path)
        assert (answer.status, answer.json()) == (200, expected)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_server_that_comes_and_goes(protocol: str, sample: Path) -> None:
    ports = choose_ports({"grpc": None, "http": None, "metrics": None})
    with running_rest(f"{protocol}://localhost:{ports[protocol]}") as rest:
        assert f"no server answers at {protocol}://localhost:{ports[protocol]}" in rest.log.read_text()
        _unavailable(rest, sample)
        with embedded_server(
            COMMITTED,
            models=[DEFAULT],
            grpc_port=ports["grpc"],
            http_port=ports["http"],
            metrics_port=ports["metrics"],
        ):
            wait_for(lambda: rest.ask("GET", "/v1/health").status == 200)
            assert rest.detect(DEFAULT, sample.read_bytes()).json()["detections"]
        _unavailable(rest, sample)


def _unavailable(rest: Rest, sample: Path) -> None:
    assert rest.ask("GET", "/v1/health/live").status == 200
    health = rest.ask("GET", "/v1/health")
    assert (health.status, health.json()) == (503, {"live": True, "ready": False})
    refused = rest.detect(DEFAULT, sample.read_bytes())
    assert refused.status == 503
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["type"] == "urn:detserve:problem:unavailable"
