"""As DeepStack and CodeProject.AI speak it: what their clients send is answered as they read it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import requests
from deepstack.core import DeepstackException, DeepstackObject, get_objects
from PIL import Image

from detserve_client import Client
from tests.live.conftest import DEFAULT
from tests.live.rest.rest_server import Rest

PATH = "/v1/vision/detection"


def sent(picture: bytes, **fields: str) -> dict:
    return {"fields": {**fields, "image": ("image", picture, "application/octet-stream")}}


def test_the_answer_is_in_whole_pixels(rest: Rest, server, sample: Path) -> None:
    with Client(server.grpc_url, DEFAULT) as client:
        expected = client.detect(sample, score_threshold=0.4)
    answer = rest.ask("POST", PATH, **sent(sample.read_bytes(), api_key=""))
    found = answer.json()
    assert found["success"] is True
    assert len(found["predictions"]) == len(expected) > 0
    for row, detection in zip(found["predictions"], expected, strict=True):
        assert (row["label"], row["confidence"]) == (detection.label, detection.score)
        edges = [row[name] for name in ("x_min", "y_min", "x_max", "y_max")]
        assert all(isinstance(edge, int) for edge in edges)
        assert edges == pytest.approx(detection.box_px, abs=0.5)


def test_the_least_confidence_is_the_callers(rest: Rest, sample: Path) -> None:
    counts = [
        len(rest.ask("POST", PATH, **sent(sample.read_bytes(), min_confidence=least)).json()["predictions"])
        for least in ("0", "0.4", "0.99")
    ]
    assert counts[0] > counts[1] > counts[2]


def test_any_detector_by_its_name(rest: Rest, sample: Path) -> None:
    answer = rest.ask("POST", "/v1/vision/custom/codes_ssd", **sent(sample.read_bytes()))
    assert answer.json()["predictions"]
    listed = rest.ask("POST", "/v1/vision/custom/list").json()
    assert listed["success"] is True
    assert {DEFAULT, "codes_ssd"} <= set(listed["models"])


@pytest.mark.parametrize(
    ("path", "how", "status", "sentence"),
    [
        (PATH, sent(b"no picture"), 422, "not a JPEG"),
        (PATH, sent(b"x", min_confidence="high"), 400, "min_confidence"),
        (PATH, {"fields": {"picture": b"x"}}, 400, "0 parts named image"),
        (PATH, {"body": b"x"}, 415, "expected multipart/form-data"),
        ("/v1/vision/custom/nobody", sent(b"x"), 404, "nobody"),
    ],
)
def test_refusals_are_in_their_form(rest: Rest, path: str, how: dict, status: int, sentence: str) -> None:
    answer = rest.ask("POST", path, **how)
    assert answer.status == status
    content = answer.json()
    assert content["success"] is False
    assert sentence in content["error"]


def test_the_client_of_home_assistants_integration(rest: Rest, server, sample: Path) -> None:
    with Client(server.grpc_url, DEFAULT) as client:
        expected = client.detect(sample, score_threshold=0.4)
    found = DeepstackObject("127.0.0.1", rest.port).detect(sample.read_bytes())
    assert get_objects(found) == sorted(set(expected.labels))
    custom = DeepstackObject("127.0.0.1", rest.port, custom_model="codes_ssd")
    assert custom.detect(sample.read_bytes())
    with pytest.raises(DeepstackException, match="422"):
        custom.detect(b"no picture")


def test_what_frigate_sends_and_reads(rest: Rest, sample: Path) -> None:
    """Its detector posts a JPEG of its own with requests, and divides the edges by the picture's sides."""
    frame = Image.open(sample).convert("RGB").resize((320, 320))
    buffer = io.BytesIO()
    frame.save(buffer, format="JPEG")
    url = f"{rest.url}{PATH}"
    answer = requests.post(url, data={"api_key": ""}, files={"image": buffer.getvalue()}, timeout=10).json()
    assert answer["predictions"]
    scores = [row["confidence"] for row in answer["predictions"]]
    assert scores == sorted(scores, reverse=True), "it stops at the first score below its threshold"
    assert scores[-1] >= 0.4
    for row in answer["predictions"]:
        assert 0 <= row["x_min"] / frame.width < row["x_max"] / frame.width <= 1
        assert 0 <= row["y_min"] / frame.height < row["y_max"] / frame.height <= 1
