"""What the service says of its detectors and of itself."""

from __future__ import annotations

from detserve_client import Client
from tests.live.conftest import DEFAULT
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


def test_where_no_server_is_there_yet(sample) -> None:
    with running_rest("localhost:9") as alone:
        assert "no server answers at grpc://localhost:9" in alone.log.read_text()
        assert alone.ask("GET", "/v1/health/live").status == 200
        assert alone.ask("GET", "/v1/health").json() == {"live": True, "ready": False}
        refused = alone.detect(DEFAULT, sample.read_bytes())
        assert refused.status == 503
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["type"] == "urn:detserve:problem:unavailable"
