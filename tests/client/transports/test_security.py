"""What a client shows, and what it refuses to show."""

from __future__ import annotations

from pathlib import Path

import pytest

from detserve_client import Client, Endpoint, EndpointError, Security, SecurityError


def test_headers_and_metadata() -> None:
    assert Security().headers() == {}
    assert Security().metadata("m") == []
    security = Security(api_key="k")
    assert security.headers() == {"authorization": "Bearer k"}
    assert security.metadata("m") == [("detserve-model", "m"), ("authorization", "Bearer k")]


def test_the_key_is_not_in_a_traceback() -> None:
    assert "hush" not in repr(Endpoint.parse("grpcs://h").secured(Security(api_key="hush")))


@pytest.mark.parametrize("key", ["", "a b", "a\nb", "é", "a\r\nX: 1"])
def test_a_key_that_is_none(key) -> None:
    with pytest.raises(SecurityError, match="API key"):
        Security(api_key=key)


@pytest.mark.parametrize("url", ["grpc://h", "http://h"])
def test_no_key_without_tls(url) -> None:
    with pytest.raises(EndpointError, match="need TLS"):
        Client(url, "m", security=Security(api_key="k"))


def test_files_that_are_not_there_or_no_certificates(tmp_path: Path) -> None:
    with pytest.raises(SecurityError, match="does not exist"):
        Security(ca=tmp_path / "ca.crt")
    (tmp_path / "ca.crt").write_text("nonsense")
    with pytest.raises(SecurityError, match="cannot be used"):
        Security(ca=tmp_path / "ca.crt").ssl_context()
    with pytest.raises(SecurityError, match="cannot be used"):
        Security(certificate=tmp_path / "ca.crt").grpc_credentials()


def test_from_environment(tmp_path: Path) -> None:
    ca, file = tmp_path / "ca.crt", tmp_path / "key"
    ca.write_text("x")
    file.write_text("from_file\n")
    environment = {"DETSERVE_API_KEY": "from_environment", "DETSERVE_CA": str(ca), "DETSERVE_CERTIFICATE": ""}
    assert Security.from_environment({}) == Security()
    assert Security.from_environment(environment) == Security(api_key="from_environment", ca=ca)
    assert Security.from_environment(environment, api_key_file=file).api_key == "from_file"
    with pytest.raises(SecurityError, match="cannot be read"):
        Security.from_environment({}, api_key_file=tmp_path / "none")
