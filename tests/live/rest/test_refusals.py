"""What is refused, in whose words, and that the service goes on."""

from __future__ import annotations

import base64
import http.client
import json
import socket

import pytest

from tests.live.conftest import DEFAULT
from tests.live.rest.rest_server import Rest
from tests.live.test_bad_input import too_large

PATH = f"/v1/models/{DEFAULT}/detect"
MIB = 2**20


def refused(answer, kind: str, status: int) -> str:
    """The detail of a problem document, after all of it was checked."""
    assert answer.status == status, answer.data
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert set(problem) == {"type", "title", "status", "detail", "instance", "request_id"}
    assert problem["type"] == f"urn:detserve:problem:{kind}"
    assert problem["status"] == status
    assert problem["request_id"] == answer.headers["x-request-id"]
    return str(problem["detail"])


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("score=2", "score is '2'; expected a number from 0 to 1"),
        ("score=NaN", "score is 'NaN'"),
        ("iou=-0.1", "iou is '-0.1'"),
        ("iou=inf", "iou is 'inf'"),
        ("score=", "score is ''"),
        ("score=%D9%A0", "expected a number from 0 to 1"),
        ("max=0", "max is '0'; expected a whole number from 1 to 1000"),
        ("max=2.5", "max is '2.5'"),
        ("max=101", "max is 101; codes_yolo gives 100 detections at most"),
        ("format=xml", "format is 'xml'; expected one of json, jpg, coco, yolo, geojson"),
        ("threshold=0.5", "there is no parameter 'threshold'; there are score, iou, max, format"),
        ("score=0.5&score=0.6", "score is given twice"),
        ("score=%FF", "the query cannot be read"),
    ],
)
def test_a_wrong_parameter_is_named(rest: Rest, sample, query: str, sentence: str) -> None:
    assert sentence in refused(rest.detect(DEFAULT, sample.read_bytes(), f"?{query}"), "bad-parameter", 400)


@pytest.mark.parametrize(
    ("picture", "sentence"),
    [
        (b"", "the picture is empty"),
        (b"this is a text, not a picture\n" * 5, "not a JPEG"),
        (None, "damaged or truncated"),
        (too_large(), "larger than the"),
    ],
    ids=["empty", "text", "truncated", "100 million pixels"],
)
def test_a_bad_picture(rest: Rest, sample, picture: bytes | None, sentence: str) -> None:
    sent = sample.read_bytes()[:-2000] if picture is None else picture
    assert sentence in refused(rest.detect(DEFAULT, sent), "bad-picture", 422)


def test_models_and_paths_that_are_not_there(rest: Rest, sample) -> None:
    picture = sample.read_bytes()
    assert "nobody" in refused(rest.detect("nobody", picture), "model-not-found", 404)
    refused(rest.ask("GET", "/v1/models/nobody"), "model-not-found", 404)
    refused(rest.ask("GET", "/v2/models"), "not-found", 404)
    refused(rest.ask("GET", "/page/../app.py"), "not-found", 404)
    wrong = rest.ask("GET", PATH)
    refused(wrong, "method-not-allowed", 405)
    assert wrong.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("media_type", "sentence"),
    [
        ("text/plain", "the body is text/plain; send the picture as a form"),
        ("application/x-www-form-urlencoded", "curl -F image=@x.jpg"),
        ("application/pdf; a=b", "the body is application/pdf"),
    ],
)
def test_a_body_of_another_type(rest: Rest, sample, media_type: str, sentence: str) -> None:
    answer = rest.detect(DEFAULT, sample.read_bytes(), content_type=media_type)
    assert sentence in refused(answer, "unsupported-media-type", 415)


def test_a_packed_body_and_a_format_that_nobody_writes(rest: Rest, sample) -> None:
    packed = rest.detect(DEFAULT, sample.read_bytes(), content_encoding="gzip")
    assert "compressed" in refused(packed, "unsupported-media-type", 415)
    strange = rest.detect(DEFAULT, sample.read_bytes(), accept="text/html")
    assert "image/jpeg" in refused(strange, "not-acceptable", 406)


def form(*parts: tuple[str, bytes], end: bytes = b"--B--\r\n") -> dict:
    body = b"".join(
        b"--B\r\ncontent-disposition: form-data; " + name.encode() + b"\r\n\r\n" + content + b"\r\n"
        for name, content in parts
    )
    return {"body": body + end, "headers": {"content-type": "multipart/form-data; boundary=B"}}


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        (form(('name="image"', b"x"), end=b""), "the form is cut off"),
        (form(('name="image"', b"x"), ('name="image"', b"y")), "the form has 2 parts named image"),
        (form(('name="picture"', b"x")), "the form has a part 'picture'"),
        (form(("", b"x")), "the form has a part ''"),
        (form(), "0 parts named image"),
        (form(*[('name="image"', b"x")] * 17), "more than 16 parts"),
        (form((f'name="image"; filename="{"a" * 5000}"', b"x")), "Maximum header size exceeded"),
        (form(('name="\xff"', b"x")), "the form"),
        ({**form(), "headers": {"content-type": "multipart/form-data"}}, "no boundary"),
        ({**form(), "headers": {"content-type": f"multipart/form-data; boundary={'B' * 71}"}}, "no boundary"),
        ({**form(), "body": b"no form at all"}, "the form cannot be read"),
    ],
)
def test_a_form_that_is_none(rest: Rest, sent: dict, sentence: str) -> None:
    assert sentence in refused(rest.ask("POST", PATH, **sent), "bad-request", 400)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"{", "the body is not JSON"),
        (b"[]", "the body is no JSON object"),
        (b"{}", "the body has 0 fields"),
        (b'{"image": NaN}', "the body is not JSON"),
        (b'{"image": 7}', "the body's image is no text"),
        (b'{"image": "%%%"}', "not base64"),
        (b'{"picture": "aaaa"}', "the body has a field 'picture'"),
        (b'{"image": "aaaa", "url": "http://x"}', "the body has 2 fields"),
        (b"[" * 100_000, "the body is not JSON"),
        (b"\xff\xfe", "the body is not JSON"),
    ],
)
def test_json_that_is_no_picture(rest: Rest, body: bytes, sentence: str) -> None:
    answer = rest.ask("POST", PATH, body=body, headers={"content-type": "application/json"})
    assert sentence in refused(answer, "bad-request", 400)


def test_an_empty_picture_in_json_and_in_a_form(rest: Rest) -> None:
    for sent in (
        {"body": b'{"image": ""}', "headers": {"content-type": "application/json"}},
        form(('name="image"; filename="x.jpg"', b"")),
    ):
        assert "empty" in refused(rest.ask("POST", PATH, **sent), "bad-picture", 422)


def test_what_is_too_large(rest: Rest) -> None:
    announced = rest.detect(DEFAULT, bytes(16 * MIB + 1))
    assert "16777216 bytes" in refused(announced, "too-large", 413)
    in_chunks = rest.ask(
        "POST", PATH, body=(bytes(MIB) for _ in range(17)), headers={"content-type": "image/jpeg"}
    )
    assert "16777216 bytes" in refused(in_chunks, "too-large", 413)
    in_json = json.dumps({"image": base64.b64encode(bytes(13 * MIB)).decode()})
    answer = rest.ask("POST", PATH, body=in_json, headers={"content-type": "application/json"})
    refused(answer, "too-large", 413)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8001/x.jpg",
        "http://localhost/x.jpg",
        "http://[::1]/x.jpg",
        "http://[::ffff:127.0.0.1]/x.jpg",
        "http://169.254.169.254/latest",
        "http://10.0.0.1/x.jpg",
        "http://2130706433/x.jpg",
        "http://0.0.0.0/x.jpg",
        "http://[fe80::1%25lo]/x.jpg",
    ],
)
def test_addresses_near_the_service_are_not_asked(rest: Rest, url: str) -> None:
    answer = rest.ask(
        "POST", PATH, body=json.dumps({"url": url}), headers={"content-type": "application/json"}
    )
    assert "not a public address" in refused(answer, "bad-picture", 422)


@pytest.mark.parametrize(
    "url", ["file:///etc/hostname", "ftp://example.com/x", "x.jpg", "http://[::1", "http://a b/"]
)
def test_what_is_no_address_of_the_web(rest: Rest, url: str) -> None:
    answer = rest.ask(
        "POST", PATH, body=json.dumps({"url": url}), headers={"content-type": "application/json"}
    )
    refused(answer, "bad-picture", 422)


def test_a_caller_that_leaves_is_not_waited_for_and_the_service_goes_on(rest: Rest, sample) -> None:
    picture = sample.read_bytes()
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
    head += f"Content-Length: {len(picture)}\r\n\r\n"
    for sent in (head.encode() + picture, head.encode() + picture[:100], head.encode()):
        with socket.create_connection(("127.0.0.1", rest.port)) as connection:
            connection.sendall(sent)
    assert rest.detect(DEFAULT, picture).status == 200
    assert "Traceback" not in rest.log.read_text()


def test_two_pictures_on_one_connection(rest: Rest, sample) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", rest.port, timeout=30)
    answers = []
    for _ in range(2):
        connection.request("POST", PATH, sample.read_bytes(), {"content-type": "image/jpeg"})
        answers.append(json.loads(connection.getresponse().read())["detections"])
    assert answers[0] == answers[1] != []
    connection.close()
