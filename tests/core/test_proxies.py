from __future__ import annotations

import os

import pytest

from detserve_core.proxies import grpc_arguments, grpc_proxy, unused_http_proxy, without_proxies

NO_PROXY_ASKED = [("grpc.enable_http_proxy", 0)]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


LOOPBACK = ["localhost", "localhost.", "a.localhost", "127.3.2.1", "::1", "::ffff:127.0.0.1"]


@pytest.mark.parametrize("host", [*LOOPBACK, "0.0.0.0"])  # noqa: S104
def test_no_proxy_is_asked_for_this_machine(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    assert grpc_arguments(host) == NO_PROXY_ASKED
    url_host = f"[{host}]" if ":" in host else host
    assert grpc_proxy(f"grpc://{url_host}:8001") == ""
    assert unused_http_proxy(f"http://{url_host}:8000") == ""


@pytest.mark.parametrize("host", ["gpu7", "10.0.0.1", "localhost.example.org"])
def test_elsewhere_the_environment_counts(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert grpc_arguments(host) == []
    assert grpc_proxy(f"grpc://{host}:8001") == ""
    monkeypatch.setenv("http_proxy", "http://me:secret@proxy:3128/")
    clause = (
        f"the way is through the proxy proxy:3128 of http_proxy; to go without it, add {host} to no_proxy"
    )
    assert grpc_proxy(f"grpc://{host}:8001") == clause
    assert unused_http_proxy(f"http://{host}:8000") == "http_proxy"


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"http_proxy": "http://a:1", "https_proxy": "http://b:1", "grpc_proxy": "http://c:1"}, "c:1"),
        ({"http_proxy": "http://a:1", "https_proxy": "http://b:1"}, "b:1"),
        ({"http_proxy": "http://a:1", "grpc_proxy": ""}, ""),
        ({"HTTP_PROXY": "http://a:1"}, ""),
        ({"all_proxy": "http://a:1"}, ""),
        ({"http_proxy": "socks5://a:1"}, ""),
        ({"http_proxy": "http://a:1", "no_proxy": "other, .example.org"}, ""),
        ({"http_proxy": "http://a:1", "no_proxy": "example.com"}, "a:1"),
        ({"http_proxy": "http://a:1", "no_proxy": ".example.org", "no_grpc_proxy": "other"}, "a:1"),
    ],
)
def test_the_proxy_that_grpc_takes(
    environment: dict[str, str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    clause = grpc_proxy("grpc://gpu7.example.org:8001")
    assert f"proxy {named} of" in clause if named else not clause


def test_a_network_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://a:1")
    monkeypatch.setenv("no_proxy", "10.0.0.0/8")
    assert grpc_proxy("grpc://10.1.2.3:8001") == ""
    assert grpc_proxy("grpc://11.1.2.3:8001") != ""


def test_an_environment_without_proxies() -> None:
    given = {"HTTP_PROXY": "a", "https_proxy": "b", "grpc_proxy": "c", "ALL_PROXY": "d", "HOME": "e"}
    assert without_proxies(given) == {"HOME": "e"}
