"""``detserve rest`` behind the gateway: the same keys, scopes, limits and log."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import urllib3

from detserve_client import Client
from detserve_rest.problems import KINDS, TYPE_PREFIX
from detserve_server.audit.record import is_inference, record_of
from detserve_server.audit.usage import Usage
from detserve_server.gateway.keys.key import new_key
from detserve_server.gateway.keys.store import KeyFile, change_keys
from detserve_server.gateway.process import RunningGateway, running_gateway
from detserve_server.gateway.settings import RateLimits
from tests.live.gateway.conftest import SSD, UNLIMITED, YOLO, Site, upstream
from tests.live.rest.rest_server import Rest, running_rest

BODY_BYTES = 2 * 2**20
DETECT = f"/v1/models/{YOLO}/detect"


@dataclass
class Front:
    """The site's Triton, with ``detserve rest`` and a gateway of its own in front of both."""

    site: Site
    rest: Rest
    as_seen: Site

    @property
    def gateway(self) -> RunningGateway:
        return self.as_seen.gateway

    def ask(
        self, method: str, path: str, client: str | None = "alice", **how: Any
    ) -> urllib3.BaseHTTPResponse:
        said = how.pop("headers", {})
        if client is not None:
            said = said | {"authorization": f"Bearer {self.as_seen.keys[client]}"}
        with urllib3.PoolManager(ca_certs=str(self.site.tls.authority), retries=False) as pool:
            return pool.request(method, f"{self.gateway.http_url}{path}", headers=said, timeout=30, **how)

    def detect(self, picture: bytes, path: str = DETECT, client: str | None = "alice", **headers: str) -> Any:
        return self.ask("POST", path, client, body=picture, headers={"content-type": "image/jpeg", **headers})


@pytest.fixture(scope="module")
def front(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    folder = tmp_path_factory.mktemp("rest-gateway")
    keys, records = {}, []
    for client, fields in {
        "alice": {"limits": UNLIMITED},
        "bob": {"models": (SSD,), "limits": UNLIMITED},
        "slow": {"limits": RateLimits(rate_per_s=1, concurrency=4)},
    }.items():
        keys[client], record = new_key(client, **fields)
        records.append(record)
    keys["wrong"] = keys["alice"][:-8] + "AAAAAAAA"
    change_keys(folder / "keys.json", lambda _: KeyFile(keys=tuple(records)))
    with (
        running_rest(
            site.triton.http_url, "--deepstack-model", YOLO, DETSERVE_GATEWAY_SECRET=site.secret
        ) as rest,
        running_gateway(
            [upstream(site.triton)],
            rest=[f"127.0.0.1:{rest.port}"],
            tls=site.tls.gateway,
            keys=folder / "keys.json",
            secret=site.secret,
            access_log=folder / "access.jsonl",
            max_body_bytes=BODY_BYTES,
        ) as gateway,
    ):
        seen = Site(site.triton, gateway, site.tls, site.authority, site.secret, folder / "keys.json", keys)
        yield Front(site, rest, seen)


@pytest.fixture
def picture(sample: Path) -> bytes:
    return sample.read_bytes()


def test_boxes_are_those_of_grpc(front: Front, picture: bytes) -> None:
    answer = front.detect(picture, f"{DETECT}?score=0.3&max=5")
    assert answer.status == 200
    with Client(front.gateway.grpc_url, YOLO, security=front.as_seen.security()) as client:
        expected = client.detect(picture, score_threshold=0.3, max_detections=5)
    found = answer.json()["detections"]
    assert len(found) > 0
    boxes = np.array([one["box"] for one in found], np.float32)
    assert boxes.tobytes() == np.array([row[0] for row in expected], np.float32).tobytes()
    scores = np.array([one["score"] for one in found], np.float32)
    assert scores.tobytes() == np.array([row[1] for row in expected], np.float32).tobytes()


def test_a_form_and_what_cameras_send(front: Front, picture: bytes) -> None:
    form = {"image": ("a.jpg", picture)}
    assert len(front.ask("POST", DETECT, fields=form).json()["detections"]) > 0
    answer = front.ask("POST", "/v1/vision/detection", fields=form).json()
    assert answer["success"] is True
    assert len(answer["predictions"]) > 0
    assert front.ask("POST", f"/v1/vision/custom/{YOLO}", fields=form).status == 200
    assert front.ask("POST", "/v1/vision/custom/list").json()["models"] == [SSD, YOLO]


def test_the_open_paths(front: Front) -> None:
    paths = ["/v1/models", f"/v1/models/{YOLO}", "/v1/openapi.json", "/v1/health", "/v1/health/live"]
    assert {path: front.ask("GET", path).status for path in paths} == dict.fromkeys(paths, 200)
    assert {path: front.ask("GET", path, None).status for path in paths} == dict.fromkeys(paths, 401)


def test_a_key_s_models_are_all_it_sees_and_uses(front: Front, picture: bytes) -> None:
    names = [one["name"] for one in front.ask("GET", "/v1/models", "bob").json()["models"]]
    assert names == [SSD]
    assert front.detect(picture, f"/v1/models/{SSD}/detect", "bob").status == 200
    refused = [
        front.detect(picture, DETECT, "bob"),
        front.detect(picture, f"{DETECT}?max=2", "bob"),
        front.ask("GET", f"/v1/models/{YOLO}", "bob"),
        front.ask("POST", f"/v1/vision/custom/{YOLO}", "bob", fields={"image": ("a.jpg", picture)}),
        front.detect(picture, DETECT, "bob", **{"detserve-models": "*", "detserve-model": SSD}),
    ]
    for answer in refused:
        assert problem(answer) == ("access-denied", 403, "this key is not for this model")
        assert front.as_seen.last()["upstream_s"] is None
    # Here it is the service that decides, for nginx does not know which detector is meant.
    answer = front.ask("POST", "/v1/vision/detection", "bob", fields={"image": ("a.jpg", picture)})
    assert answer.status == 403


@pytest.mark.parametrize(("client", "words"), [(None, "no key was sent"), ("wrong", "this key is unknown")])
def test_without_a_key_that_is_known(front: Front, picture: bytes, client, words) -> None:
    answer = front.detect(picture, client=client)
    kind, status, detail = problem(answer)
    assert (kind, status) == ("not-known", 401)
    assert words in detail
    assert answer.headers["www-authenticate"] == "Bearer"
    assert front.as_seen.last()["upstream_s"] is None


def test_over_the_rate(front: Front) -> None:
    answers = [front.ask("GET", "/v1/models", "slow") for _ in range(20)]
    refused = [answer for answer in answers if answer.status != 200]
    assert refused
    for answer in refused:
        assert problem(answer)[:2] == ("over-the-limit", 429)
        assert answer.headers["retry-after"] == "1"


def test_over_the_size(front: Front) -> None:
    answer = front.detect(bytes(BODY_BYTES + 1))
    assert problem(answer) == ("too-large", 413, f"message larger than max ({BODY_BYTES} bytes)")


def test_a_packed_body(front: Front, picture: bytes) -> None:
    answer = front.detect(picture, **{"content-encoding": "gzip"})
    assert problem(answer)[:2] == ("unsupported-media-type", 415)


TRICKS = [
    ("POST", f"//v1/models/{YOLO}/detect"),
    ("POST", f"/v1//models/{YOLO}/detect"),
    ("POST", f"/v1/models/{YOLO}/detect/"),
    ("POST", f"/v1/models/{YOLO}//detect"),
    ("POST", f"/v1/models/{YOLO}%2fdetect"),
    ("POST", f"/v1/models/{YOLO}/../{SSD}/detect"),
    ("POST", f"/v1/models/%2e%2e/{YOLO}/detect"),
    ("POST", f"/v1/models/{YOLO}/detect?score=%30"),
    ("POST", f"/v1/models/{YOLO}/detect?a?b"),
    ("POST", f"/v1/models/{YOLO}/detect?x=/v1/models/{SSD}/detect"),
    ("POST", f"/v1/models/{YOLO}/detect#x"),
    ("POST", "/v1/vision/detection?x=1"),
    ("POST", f"/v1/vision/custom/{YOLO}?x=1"),
    ("POST", "/v1/vision/face"),
    ("PUT", f"/v1/models/{YOLO}/detect"),
    ("GET", f"/v1/models/{YOLO}/detect"),
    ("GET", f"/v1/models/{YOLO}?x=1"),
    ("GET", "/v1/models?x=1"),
    ("GET", "/v1/models/"),
    ("GET", "/v1/health/"),
    ("GET", "/v1"),
    ("GET", "/v1/../v2/models/stats"),
    ("GET", "/?x=1"),
    ("POST", "/"),
    ("GET", "/page/"),
    ("GET", "/page/../v1/models"),
    ("GET", "/page/%2e%2e/v1/models"),
    ("GET", "/page//page.js"),
    ("GET", "/page/a/b.js"),
    ("GET", "/page/.hidden"),
    ("GET", "/index.html"),
    ("GET", "/refused/problem/401"),
]


@pytest.mark.parametrize(("method", "target"), TRICKS)
def test_path_tricks(front: Front, method, target) -> None:
    assert front.as_seen.status(method, target) in (400, 403)
    assert front.as_seen.last()["upstream_s"] is None


def test_the_page_needs_no_key(front: Front) -> None:
    answer = front.ask("GET", "/", None)
    assert answer.status == 200
    assert answer.data == (files("detserve_rest") / "page/index.html").read_bytes()
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_the_page_is_given_at_a_pace_and_not_logged(front: Front) -> None:
    lines = front.as_seen.settled()
    answers = [front.ask("GET", "/", None).status for _ in range(150)]
    assert set(answers) <= {200, 429}
    assert answers.count(200) >= 60
    time.sleep(0.3)
    assert len(front.as_seen.log()) == lines


def test_the_log_says_who_and_how_it_ended(front: Front, picture: bytes) -> None:
    usage = Usage()
    for body, path, outcome, inference in [
        (picture, DETECT, "ok", True),
        (b"no picture", DETECT, "rejected", True),
        (picture, "/v1/models/no_such/detect", "rejected", True),
        (picture, f"{DETECT}?score=7", "rejected", True),
    ]:
        answer = front.detect(body, path)
        line = front.as_seen.last()
        record = record_of(json.dumps(line).encode())
        usage.update(record)
        assert (line["client"], line["method"], line["protocol"]) == ("alice", "rest-detect", "http")
        assert (record["outcome"], is_inference(record)) == (outcome, inference)
        assert line["request_id"] == answer.headers["x-request-id"]
        if outcome != "ok":
            assert answer.json()["request_id"] == line["request_id"]
    assert line["model"] == YOLO
    (row,) = usage.rows()
    assert (row.client, row.requests, row.not_ok, row.inferences) == ("alice", 4, 3, 1)
    front.ask("GET", "/v1/models")
    record = record_of(json.dumps(front.as_seen.last()).encode())
    assert (record["method"], record["outcome"], is_inference(record)) == ("rest-models", "ok", False)


def test_the_service_itself_answers_its_gateway_only(front: Front, picture: bytes) -> None:
    assert problem(front.rest.detect(YOLO, picture))[:2] == ("not-the-gateway", 403)
    shown = front.rest.detect(YOLO, picture, detserve_gateway=front.site.secret)
    assert shown.status == 403, "without a word on its models, none"


def test_without_it_its_paths_are_closed(site: Site) -> None:
    for path in ("/", "/page/page.js", "/v1/models", f"/v1/models/{YOLO}"):
        assert site.status("GET", path) == 403


def problem(answer: urllib3.BaseHTTPResponse) -> tuple[str, int, str]:
    """The kind, the status and the detail of a refusal, which is whole."""
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert list(document) == ["type", "title", "status", "detail", "instance", "request_id"]
    assert document["request_id"] == answer.headers["x-request-id"]
    kind = document["type"].removeprefix(TYPE_PREFIX)
    assert (document["status"], document["title"]) == KINDS[kind]
    assert document["status"] == answer.status
    return kind, answer.status, document["detail"]
