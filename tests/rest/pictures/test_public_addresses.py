"""Which addresses are the internet's, and that every connection on the way is checked."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from detserve_core.errors import SourceError
from detserve_rest.pictures.public_addresses import download_from_the_internet, is_public


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.215.14", "2606:4700:4700::1111"])
def test_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.1", "10.1.2.3", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.16.0.1", "192.168.1.1"),
        *("192.0.2.1", "198.18.0.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "::ffff:1.1.1.1", "::ffff:127.0.0.1", "fc00::1", "fd12::1", "fe80::1", "ff02::1"),
        *("2001:db8::1", "2002:7f00:1::1", "64:ff9b::7f00:1", "64:ff9b:1::1", "2001:0:7f00:1::1"),
    ],
)
def test_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/slow":
            self.wfile.write(b"HTTP/1.0 200 OK\r\n")
            for _ in range(100):
                self.wfile.write(b"x: y\r\n")
                time.sleep(0.05)
            return
        self.send_response(302 if self.path == "/redirect" else 200)
        if self.path == "/redirect":
            self.send_header("location", f"http://127.0.0.2:{self.server.server_port}/picture")
        self.end_headers()
        self.wfile.write(b"a picture")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("0.0.0.0", 0), _Answers)  # noqa: S104
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def only_the_first(address: object) -> bool:
    return str(address) == "127.0.0.1"


def test_what_is_allowed_is_fetched(site: str) -> None:
    assert download_from_the_internet(f"{site}/picture", 100, allowed=only_the_first) == b"a picture"


def test_a_redirect_is_checked_again(site: str) -> None:
    with pytest.raises(SourceError, match=r"127\.0\.0\.2 is not a public address"):
        download_from_the_internet(f"{site}/redirect", 100, allowed=only_the_first)
    assert download_from_the_internet(f"{site}/redirect", 100, allowed=lambda _: True) == b"a picture"


def test_this_machine_is_not_asked(site: str) -> None:
    with pytest.raises(SourceError, match=r"127\.0\.0\.1 is not a public address"):
        download_from_the_internet(f"{site}/picture", 100)


def test_the_environments_proxy_is_not_used(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert download_from_the_internet(f"{site}/picture", 100, allowed=only_the_first) == b"a picture"


def test_more_than_is_taken(site: str) -> None:
    with pytest.raises(SourceError, match="more than"):
        download_from_the_internet(f"{site}/picture", 5, allowed=only_the_first)


def test_headers_that_drip_end_with_the_time(site: str) -> None:
    with pytest.raises(SourceError):
        download_from_the_internet(f"{site}/slow", 100, timeout_s=0.3, allowed=only_the_first)
