"""Bad input: one sentence each, and a server that goes on."""

from __future__ import annotations

import base64
import io
import re
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import urllib3

from detserve_client import (
    Client,
    DeadlineExceeded,
    InferenceError,
    ModelNotFound,
    RequestRejected,
    ServerUnavailable,
    SourceError,
)
from tests.live.conftest import DEFAULT


def too_large() -> bytes:
    """A PNG of a few kilobytes that claims 10001x10000 pixels, just above what a detector accepts."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 10001, 10000, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1_000_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


BAD = {
    "empty": (b"", "empty"),
    "text": (b"this is a text file, not a picture\n" * 5, "not a JPEG"),
    "truncated": (None, "damaged or truncated"),
    "too large": (too_large(), "larger than the"),
}


def bad_picture(kind: str, sample) -> bytes:
    data = BAD[kind][0]
    return sample.read_bytes()[:-2000] if data is None else data


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_picture_is_one_sentence(client: Client, sample, kind) -> None:
    with pytest.raises((RequestRejected, SourceError)) as caught:
        client.detect(bad_picture(kind, sample))
    assert BAD[kind][1] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(client.detect(sample)) > 0


@pytest.mark.parametrize("kind", BAD)
def test_one_bad_request_among_seven_good_ones_fails_alone(server, sample, kind) -> None:
    """Sent at once, so that dynamic batching puts them together."""
    good = sample.read_bytes()
    pictures = [good] * 3 + [bad_picture(kind, sample)] + [good] * 4
    with Client(server.grpc_url, DEFAULT) as client, ThreadPoolExecutor(8) as pool:
        expected = client.detect(good)

        def outcome(picture: bytes):
            try:
                return client.detect(picture)
            except (InferenceError, SourceError) as error:
                return error

        for _ in range(5):
            outcomes = list(pool.map(outcome, pictures))
            assert isinstance(outcomes.pop(3), (RequestRejected, SourceError))
            assert all(found == expected for found in outcomes)


def test_the_server_refuses_an_empty_picture_by_itself(server) -> None:
    """The client does not send one; others do."""
    tensor = grpcclient.InferInput("IMAGE", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[b""]], dtype=object))
    with grpcclient.InferenceServerClient(server.grpc_url.removeprefix("grpc://")) as connection:
        with pytest.raises(Exception, match="picture 0: empty, expected the bytes of a JPEG"):
            connection.infer(DEFAULT, [tensor])


def test_a_wrong_dtype_is_refused(server) -> None:
    tensor = grpcclient.InferInput("IMAGE", [1, 1], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 1), np.float32))
    with grpcclient.InferenceServerClient(server.grpc_url.removeprefix("grpc://")) as connection:
        with pytest.raises(Exception, match="TYPE_FP32|data-type"):
            connection.infer(DEFAULT, [tensor])
        assert connection.is_server_live()


def test_a_wrong_model_name(url) -> None:
    with Client(url, "no_such_model") as client, pytest.raises(ModelNotFound, match="no_such_model"):
        client.detect(b"anything")


@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_a_threshold_out_of_range(client: Client, sample, value) -> None:
    with pytest.raises(RequestRejected, match="score_threshold"):
        client.detect(sample, score_threshold=value)


WHOLE = "parameter max_detections is {}, expected a whole number from 0 to 100"
SHARE = "parameter score_threshold is {}, expected a number from 0 to 1"


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        *(({"max_detections": value}, WHOLE.format(repr(value))) for value in ("many", 101, -1, True, "2.5")),
        *(({"score_threshold": value}, SHARE.format(repr(value))) for value in (2, True, "nan", "", "0x1")),
        (
            {"score_treshold": "0.5"},
            "there is no parameter score_treshold, expected one of score_threshold, ",
        ),
    ],
)
def test_the_server_checks_parameters_by_itself(server, sample, parameters, sentence) -> None:
    tensor = grpcclient.InferInput("IMAGE", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[sample.read_bytes()]], dtype=object))
    with grpcclient.InferenceServerClient(server.grpc_url.removeprefix("grpc://")) as connection:
        with pytest.raises(Exception, match=re.escape(sentence)):
            connection.infer(DEFAULT, [tensor], parameters=parameters)
        connection.infer(DEFAULT, [tensor], parameters={"max_detections": "3", "score_threshold": 1})


@pytest.mark.parametrize("value", [2.5, True, None, [1], {}])
def test_what_only_json_can_say_is_no_number_of_detections(server, sample, value) -> None:
    """Over HTTP Triton itself refuses what is neither text nor a number nor a boolean."""
    picture = base64.b64encode(sample.read_bytes()).decode()
    body = {
        "inputs": [{"name": "IMAGE", "shape": [1, 1], "datatype": "BYTES", "data": [picture]}],
        "parameters": {"max_detections": value},
    }
    answer = urllib3.request("POST", f"{server.http_url}/v2/models/{DEFAULT}/infer", json=body)
    assert answer.status == 400


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_server_that_is_down(scheme, sample) -> None:
    with Client(f"{scheme}://127.0.0.1:9", DEFAULT, timeout_s=2) as client:
        with pytest.raises(ServerUnavailable, match="127.0.0.1:9"):
            client.detect(sample)


def test_a_deadline_that_passes(client: Client) -> None:
    client.card()
    noise = np.random.default_rng(0).integers(0, 255, (4000, 5000, 3), np.uint8)
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    with pytest.raises(DeadlineExceeded):
        client.detect(buffer.getvalue(), timeout_s=0.05)
    assert client.ready()
