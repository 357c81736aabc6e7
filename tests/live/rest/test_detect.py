"""``POST /v1/models/NAME/detect``: what gRPC answers, in every form, however the picture is sent."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from detserve_client import Client
from tests.live.conftest import DEFAULT, SAMPLES
from tests.live.rest.rest_server import Rest

PATH = f"/v1/models/{DEFAULT}/detect"
PICTURES = sorted(SAMPLES.glob("*.jpg"))


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.stem)
def test_boxes_and_scores_are_those_of_grpc_to_the_last_bit(rest: Rest, server, picture: Path) -> None:
    with Client(server.grpc_url, DEFAULT) as client:
        expected = client.detect(picture, score_threshold=0.05)
    found = rest.detect(DEFAULT, picture.read_bytes(), "?score=0.05").json()
    rows = found["detections"]
    assert np.array_equal(np.array([row["box"] for row in rows], np.float32).reshape(-1, 4), expected.boxes)
    assert np.array_equal(np.array([row["score"] for row in rows], np.float32), expected.scores)
    assert [row["class_id"] for row in rows] == expected.classes.tolist()
    assert [row["label"] for row in rows] == expected.labels.tolist()
    height, width = cv2.imread(str(picture)).shape[:2]
    assert found["image"] == {"width": width, "height": height}
    assert set(found["timings"]) == {"reading", "detector"}


def test_a_picture_may_be_sent_in_every_way(rest: Rest, sample: Path) -> None:
    picture = sample.read_bytes()
    in_json = json.dumps({"image": base64.b64encode(picture).decode()})
    ways = [
        rest.detect(DEFAULT, picture),
        rest.detect(DEFAULT, picture, content_type="application/octet-stream"),
        rest.ask("POST", PATH, fields={"image": ("street.jpg", picture, "image/jpeg")}),
        rest.ask("POST", PATH, body=in_json, headers={"content-type": "application/json"}),
        rest.ask(
            "POST", PATH, body=iter([picture[:999], picture[999:]]), headers={"content-type": "image/jpeg"}
        ),
    ]
    assert {way.status for way in ways} == {200}
    found = [way.json()["detections"] for way in ways]
    assert found[0]
    assert all(rows == found[0] for rows in found)


def test_other_formats_of_pictures_and_pictures_on_their_side(rest: Rest, sample: Path) -> None:
    image = Image.open(sample)
    for kind in ("PNG", "WEBP", "BMP"):
        buffer = io.BytesIO()
        image.save(buffer, kind)
        found = rest.detect(DEFAULT, buffer.getvalue(), content_type=f"image/{kind.lower()}").json()
        assert found["image"] == {"width": image.width, "height": image.height}
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    image.rotate(90, expand=True).save(turned, "JPEG", exif=exif)
    found = rest.detect(DEFAULT, turned.getvalue()).json()
    assert found["image"] == {"width": image.width, "height": image.height}


def test_thresholds_are_the_requests(rest: Rest, sample: Path) -> None:
    picture = sample.read_bytes()
    every = rest.detect(DEFAULT, picture, "?score=0&iou=1").json()["detections"]
    few = rest.detect(DEFAULT, picture, "?score=0&iou=1&max=2").json()["detections"]
    assert len(every) > len(few) == 2
    assert few == every[:2]


def test_a_drawn_picture(rest: Rest, sample: Path) -> None:
    answer = rest.detect(DEFAULT, sample.read_bytes(), "?format=jpg")
    assert answer.headers["content-type"] == "image/jpeg"
    drawn, plain = cv2.imdecode(np.frombuffer(answer.data, np.uint8), 1), cv2.imread(str(sample))
    assert drawn.shape == plain.shape
    assert np.abs(drawn.astype(int) - plain).max() > 100
    assert "drawing;dur=" in answer.headers["server-timing"]


def test_coco_yolo_and_geojson(rest: Rest, sample: Path) -> None:
    fields = {"image": ("street.jpg", sample.read_bytes(), "image/jpeg")}
    plain, coco, yolo, geojson = (
        rest.ask("POST", f"{PATH}?format={name}", fields=fields)
        for name in ("json", "coco", "yolo", "geojson")
    )
    rows, size = plain.json()["detections"], plain.json()["image"]
    data_set = coco.json()
    assert data_set["images"] == [{"id": 1, "file_name": "street.jpg", **size}]
    assert [one["name"] for one in data_set["categories"]] == [
        "qr",
        "datamatrix",
        "aztec",
        "pdf417",
        "linear",
    ]
    lines = [line.split() for line in yolo.data.decode().splitlines()]
    features = geojson.json()["features"]
    assert len(rows) == len(data_set["annotations"]) == len(lines) == len(features) > 0
    for row, annotation, line, feature in zip(rows, data_set["annotations"], lines, features, strict=True):
        x1, y1, x2, y2 = row["box"]
        assert annotation["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=1e-4)
        assert annotation["category_id"] == int(line[0]) == row["class_id"]
        centre_x, centre_y, width, height, score = map(float, line[1:])
        assert centre_x * size["width"] == pytest.approx((x1 + x2) / 2, abs=0.01)
        assert height * size["height"] == pytest.approx(y2 - y1, abs=0.01)
        assert (width, centre_y, score) == pytest.approx(
            ((x2 - x1) / size["width"], (y1 + y2) / 2 / size["height"], row["score"]), abs=1e-5
        )
        ring = feature["geometry"]["coordinates"][0]
        assert ring == [[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]]
        assert feature["properties"]["label"] == row["label"]
    assert yolo.headers["content-type"] == "text/plain; charset=utf-8"
    assert geojson.headers["content-type"] == "application/geo+json"


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("*/*", "application/json"),
        ("image/jpeg", "image/jpeg"),
        ("application/geo+json;q=0.5, image/*;q=0.4", "application/geo+json"),
        ("text/html, application/json", "application/json"),
    ],
)
def test_the_header_accept_chooses_the_format(rest: Rest, sample: Path, accept: str, media_type: str) -> None:
    answer = rest.detect(DEFAULT, sample.read_bytes(), accept=accept)
    assert (answer.status, answer.headers["content-type"]) == (200, media_type)


def test_every_answer_has_the_requests_id(rest: Rest, sample: Path) -> None:
    assert rest.detect(DEFAULT, sample.read_bytes(), x_request_id="abc-1").headers["x-request-id"] == "abc-1"
    assert len(rest.detect(DEFAULT, sample.read_bytes()).headers["x-request-id"]) == 32
