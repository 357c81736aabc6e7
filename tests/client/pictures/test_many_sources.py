"""What ``detect`` takes: several pictures, a folder, pixels in RGB, an address."""

from __future__ import annotations

import asyncio
import io
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import cv2
import numpy as np
import pytest

from detserve_client import (
    AsyncClient,
    AsyncFakeTransport,
    Card,
    Client,
    DetectionRequest,
    Detections,
    FakeTransport,
    RequestRejected,
    SourceError,
)
from detserve_client.pictures.download import download
from detserve_client.pictures.encoding import encoded_picture
from detserve_client.pictures.one_or_several import one_or_several
from detserve_core.picture_sources import expand_sources


def test_several_pictures(card: Card, found: Detections, tmp_path: Path) -> None:
    def answer(request: DetectionRequest) -> Detections:
        if request.picture == b"torn":
            raise RequestRejected("the picture is rejected: torn")
        return found[: len(request.picture)]

    for name, content in (("a.jpg", b"1"), ("sub/b.png", b"22"), ("notes.txt", b"333")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    with Client("pets", "pets", transport=FakeTransport(card, answer)) as client:
        assert client.detect([b"1", b"22", io.BytesIO(b"1")]) == [found[:1], found[:2], found[:1]]
        assert client.detect(tmp_path.glob("*.jpg")) == [found[:1]]
        for folder in (tmp_path, str(tmp_path)):
            assert client.detect(folder) == [found[:1], found[:2]]
        assert client.detect([]) == []
        with pytest.raises(RequestRejected, match=r"^picture 1 failed: the picture is rejected: torn$"):
            client.detect([b"1", b"torn"])
        with pytest.raises(SourceError, match=r"absent\.jpg cannot be read"):
            client.detect([b"1", tmp_path / "absent.jpg"])
        with pytest.raises(SourceError, match="has no picture"):
            (tmp_path / "empty").mkdir()
            client.detect(tmp_path / "empty")
        with pytest.raises(SourceError, match="got a picture source of type int"):
            client.detect(7)  # type: ignore[call-overload]

    async def go() -> list[Detections]:
        async with AsyncClient("pets", "pets", transport=AsyncFakeTransport(card, answer)) as looped:
            return await looped.detect([b"1", b"22"])

    assert asyncio.run(go()) == [found[:1], found[:2]]


def test_pixels_in_rgb(card: Card) -> None:
    sent: list[np.ndarray[Any, Any]] = []

    def answer(request: DetectionRequest) -> Detections:
        pixels = cv2.imdecode(np.frombuffer(request.picture, np.uint8), cv2.IMREAD_COLOR)
        sent.append(np.asarray(pixels)[20, 20])
        return Detections.empty(card.labels)

    red_in_rgb = np.zeros((40, 40, 3), np.uint8) + np.array([250, 0, 0], np.uint8)
    with Client("pets", "pets", transport=FakeTransport(card, answer)) as client:
        client.detect(red_in_rgb, rgb=True)
        client.detect([red_in_rgb], rgb=True)
        client.detect(red_in_rgb)
    blues, reds = np.array(sent, int)[:, 0], np.array(sent, int)[:, 2]
    assert (np.abs(blues - [0, 0, 250]) < 10).all()
    assert (np.abs(reds - [250, 250, 0]) < 10).all()


PICTURE = b"\x89PNG" + bytes(200_000)


class Web(BaseHTTPRequestHandler):
    """A web server, which takes whole addresses as a proxy does."""

    def do_GET(self) -> None:
        path = self.path.removeprefix("http://pictures.invalid")
        if path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/a.png")
            self.end_headers()
        elif path == "/to-a-file":
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()
        elif path == "/torn":
            self.send_response(200)
            self.send_header("Content-Length", "99")
            self.end_headers()
            self.wfile.write(b"seven b")
        elif path == "/a.png":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(PICTURE)
        else:
            self.send_error(404, "Not there")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def web() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Web)
    Thread(target=server.serve_forever, args=(0.02,)).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def test_an_address_is_fetched() -> None:
    with web() as site:
        assert encoded_picture(f"{site}/a.png") == encoded_picture(f"{site}/moved") == PICTURE


def test_by_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with web() as proxy:
        for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", proxy)
        assert download("http://pictures.invalid/a.png") == PICTURE


def test_an_address_that_gives_no_picture() -> None:
    with web() as site:
        for path, sentence in (
            ("/absent", "/absent cannot be fetched: the answer is 404 Not there"),
            ("/torn", "/torn broke off after 7 bytes; expected 99"),
            ("/to-a-file", "/to-a-file cannot be fetched: "),
        ):
            with pytest.raises(SourceError, match=sentence):
                download(f"{site}{path}")
        with pytest.raises(SourceError, match="has more than 0 MiB; expected a picture"):
            download(f"{site}/a.png", most_bytes=100_000)
    with pytest.raises(SourceError, match="cannot be fetched: Connection refused"):
        download(f"{site}/a.png")


def test_a_server_that_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(SourceError, match=r"cannot be fetched: no answer within 0\.2 s"):
            download(f"http://127.0.0.1:{silent.getsockname()[1]}/a.png", timeout_s=0.2)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_other_kinds_of_bytes_are_one_picture(kind: type) -> None:
    assert encoded_picture(kind(b"a picture")) == b"a picture"
    assert one_or_several(kind(b"a picture")) == b"a picture"


def test_an_empty_path_is_not_the_folder_one_is_in() -> None:
    with pytest.raises(SourceError, match="got an empty path"):
        one_or_several("")
    with pytest.raises(SourceError, match="got an empty path"):
        expand_sources([""])


def test_what_macos_leaves_beside_pictures_is_none(tmp_path: Path) -> None:
    for name in ("a.jpg", "._a.jpg"):
        (tmp_path / name).write_bytes(b"x")
    assert one_or_several(tmp_path) == [tmp_path / "a.jpg"]
