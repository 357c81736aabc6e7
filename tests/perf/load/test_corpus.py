"""The corpus perf_analyzer sends is the pictures of a folder, byte for byte."""

import base64
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detserve_client import Card, Detections
from detserve_core.endpoint import Endpoint
from detserve_perf.errors import MeasurementError
from detserve_perf.load.corpus import (
    FEW_PICTURES,
    MAX_PICTURES,
    check_pictures,
    corpus_note,
    input_data,
    named_pictures,
    read_pictures,
)
from tests.client.transports.triton_http import Received, Reply, error_reply, http_server, infer_reply


@given(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=5))
def test_every_picture_comes_back_behind_its_length(pictures: list[bytes]) -> None:
    steps = json.loads(input_data(pictures))["data"]
    assert len(steps) == len(pictures)
    for step, picture in zip(steps, pictures, strict=True):
        assert step["IMAGE"]["shape"] == [1]
        sent = base64.b64decode(step["IMAGE"]["content"]["b64"], validate=True)
        assert struct.unpack("<I", sent[:4]) == (len(picture),)
        assert sent[4:] == picture


def test_a_folder_gives_its_distinct_pictures_in_order_of_name(tmp_path) -> None:
    for name, content in {
        "b.png": b"B",
        "a.JPG": b"A",
        "c.jpeg": b"A",
        "._d.jpg": b"D",
        "notes.txt": b"no",
    }.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.jpg").mkdir()
    assert read_pictures(tmp_path) == [b"A", b"B"]


def test_a_picture_that_cannot_be_read_is_named(tmp_path, monkeypatch) -> None:
    (tmp_path / "a.jpg").write_bytes(b"A")

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(MeasurementError, match=r"a\.jpg cannot be read: Permission denied"):
        read_pictures(tmp_path)


def test_the_picture_that_the_server_refuses_is_named_by_its_file(tmp_path, card: Card) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(name.encode())

    def answer(request: Received) -> Reply:
        if request.picture == b"a.jpg":
            return infer_reply(Detections.empty(card.labels))
        return error_reply(400, "picture 0: not a JPEG")

    with http_server(card, answer) as url, pytest.raises(MeasurementError) as raised:
        check_pictures(named_pictures(tmp_path), Endpoint.parse(url), "pets")
    assert "2 of 3 pictures cannot be measured with" in str(raised.value)
    assert f"the first is {tmp_path / 'b.jpg'}: the picture is rejected: not a JPEG" in str(raised.value)


def test_a_large_folder_is_read_up_to_the_limit(tmp_path) -> None:
    for number in range(MAX_PICTURES + 5):
        (tmp_path / f"{number:04}.jpg").write_bytes(b"%d" % number)
    assert len(read_pictures(tmp_path)) == MAX_PICTURES


def test_a_folder_without_pictures_is_refused(tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(MeasurementError, match="has no JPEG"):
        read_pictures(tmp_path)


def test_an_absent_folder_is_refused(tmp_path) -> None:
    with pytest.raises(MeasurementError, match="is not a folder"):
        read_pictures(tmp_path / "absent")


def test_few_pictures_are_said() -> None:
    assert corpus_note(FEW_PICTURES) is None
    assert "only 15 distinct pictures" in str(corpus_note(15))
