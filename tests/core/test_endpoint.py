from __future__ import annotations

import pytest

from detserve_client import Endpoint, EndpointError


@pytest.mark.parametrize(
    ("url", "expected", "written"),
    [
        ("grpc://localhost", Endpoint("grpc", "localhost", 8001), "grpc://localhost:8001"),
        ("grpc://gpu7:9001", Endpoint("grpc", "gpu7", 9001), "grpc://gpu7:9001"),
        ("http://10.0.0.2", Endpoint("http", "10.0.0.2", 8000), "http://10.0.0.2:8000"),
        ("HTTP://host:80/", Endpoint("http", "host", 80), "http://host:80"),
        ("grpcs://host", Endpoint("grpc", "host", 8001, tls=True), "grpcs://host:8001"),
        ("https://host", Endpoint("http", "host", 443, tls=True), "https://host:443"),
        ("grpc://[::1]:8001", Endpoint("grpc", "::1", 8001), "grpc://[::1]:8001"),
        ("http://[fe80::2]", Endpoint("http", "fe80::2", 8000), "http://[fe80::2]:8000"),
    ],
)
def test_addresses(url: str, expected: Endpoint, written: str) -> None:
    assert Endpoint.parse(url) == expected
    assert str(expected) == written
    assert Endpoint.parse(written) == expected


@pytest.mark.parametrize(
    ("alone", "written"),
    [
        ("localhost:8001", "grpc://localhost:8001"),
        ("localhost", "grpc://localhost:8001"),
        ("gpu7:9001", "grpc://gpu7:9001"),
        ("localhost:8000", "http://localhost:8000"),
        ("[::1]:8001", "grpc://[::1]:8001"),
    ],
)
def test_without_a_scheme(alone: str, written: str) -> None:
    assert str(Endpoint.parse(alone)) == written


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("localhost:no", "a host and a port"),
        ("", "grpc://HOST:PORT or http://HOST:PORT"),
        ("ftp://host", "grpc://HOST:PORT or http://HOST:PORT"),
        ("grpc://", "a host name after grpc://"),
        ("grpc://:8001", "a host name after grpc://"),
        ("grpc://my host", "a host name after grpc://"),
        ("grpc://host:0", "a port of 1 to 65535"),
        ("grpc://host:70000", "a port of 1 to 65535"),
        ("grpc://host:first", "a host and a port"),
        ("grpc://[::1", "a host and a port"),
        ("http://host/v2", "nothing but http://HOST:PORT"),
        ("http://me:secret@host", "nothing but http://HOST:PORT"),
        ("http://host?x=1", "nothing but http://HOST:PORT"),
    ],
)
def test_a_mistake_names_what_came_and_what_was_expected(url: str, expected: str) -> None:
    with pytest.raises(EndpointError) as caught:
        Endpoint.parse(url)
    assert str(caught.value).startswith(f"cannot read the server address {url!r}; expected ")
    assert expected in str(caught.value)
