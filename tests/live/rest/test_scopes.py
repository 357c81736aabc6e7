"""Behind a gateway: its secret, the detectors of a key, and that the server behind enforces them too."""

from __future__ import annotations

import asyncio

import pytest

from detserve_client import AccessDenied, AsyncClient
from detserve_client.engine.call_headers import call_headers
from detserve_core.contract import GATEWAY_SECRET
from tests.live.conftest import DEFAULT
from tests.live.rest.rest_server import Rest, running_rest
from tests.live.rest.test_refusals import refused

OTHER = "codes_ssd"


@pytest.fixture(scope="module")
def guarded(server):
    with running_rest(server.grpc_url, **{GATEWAY_SECRET: "proof"}) as running:
        yield running


def test_without_the_secret_only_health_answers(guarded: Rest, sample) -> None:
    assert guarded.ask("GET", "/v1/health").status == 200
    for headers in ({}, {"detserve-gateway": "prooF"}, {"detserve-gateway": ""}):
        refused(guarded.ask("GET", "/v1/models", headers=headers), "not-the-gateway", 403)
        refused(guarded.ask("GET", "/", headers=headers), "not-the-gateway", 403)
    refused(guarded.detect(DEFAULT, sample.read_bytes()), "not-the-gateway", 403)


def test_behind_the_gateway_the_keys_detectors_alone(guarded: Rest, sample) -> None:
    said = {"detserve-gateway": "proof", "detserve-models": f",{DEFAULT},"}
    listed = guarded.ask("GET", "/v1/models", headers=said).json()["models"]
    assert [one["name"] for one in listed] == [DEFAULT]
    picture = sample.read_bytes()
    answer = guarded.detect(DEFAULT, picture, detserve_gateway="proof", detserve_models=f",{DEFAULT},")
    assert answer.json()["detections"]
    other = guarded.detect(OTHER, picture, detserve_gateway="proof", detserve_models=f",{DEFAULT},")
    assert "not for model 'codes_ssd'" in refused(other, "access-denied", 403)
    assert refused(guarded.ask("GET", f"/v1/models/{OTHER}", headers=said), "access-denied", 403)


def test_a_gateway_that_names_no_scope_gives_none(guarded: Rest, sample) -> None:
    refused(guarded.detect(DEFAULT, sample.read_bytes(), detserve_gateway="proof"), "access-denied", 403)
    listed = guarded.ask("GET", "/v1/models", headers={"detserve-gateway": "proof"})
    assert listed.json() == {"models": []}


@pytest.mark.parametrize("scope", ["codes_yolo", ",a b,", ",a,,", "**"])
def test_a_scope_that_cannot_be_read_is_refused(rest: Rest, sample, scope: str) -> None:
    refused(rest.detect(DEFAULT, sample.read_bytes(), detserve_models=scope), "bad-request", 400)


def test_the_headers_of_a_call_reach_the_pipeline(server, url, sample) -> None:
    """One client, many scopes, at the same time."""

    async def outcome(client: AsyncClient, scope: str) -> object:
        with call_headers({"detserve-models": scope}):
            try:
                return await client.detect(sample)
            except AccessDenied as error:
                return str(error)

    async def run() -> list[object]:
        async with AsyncClient(url, DEFAULT) as client:
            return await asyncio.gather(*(outcome(client, scope) for scope in ("*", f",{OTHER},") * 4))

    outcomes = asyncio.run(run())
    assert all(len(found) > 0 for found in outcomes[::2])
    assert all("not for model 'codes_yolo'" in str(found) for found in outcomes[1::2])
