"""nginx.conf from settings: nginx takes every variant, and no setting can say more than it should."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from detserve_server.errors import GatewayError
from detserve_server.gateway import GatewaySettings, RateLimits, Upstream, render
from detserve_server.gateway.certificates.authority import new_authority, new_server, write_certified
from detserve_server.gateway.keys.key import new_key
from detserve_server.gateway.keys.nginx import nginx_keys
from detserve_server.gateway.keys.store import KeyFile
from detserve_server.gateway.process import check_configuration, find_nginx
from detserve_server.gateway.shared_secret import read_secret, write_secret
from tests.needs import needs_nginx


def settings(folder: Path, **fields) -> GatewaySettings:
    return GatewaySettings(
        **{
            "upstreams": (Upstream(grpc="127.0.0.1:8001", http="127.0.0.1:8000"),),
            "certificate": folder / "server.crt",
            "certificate_key": folder / "server.key",
            "keys": folder / "keys.conf",
            "access_log": str(folder / "access.jsonl"),
            "error_log": folder / "error.log",
            "run_dir": folder,
            **fields,
        }
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    authority = new_authority("a")
    write_certified(tmp_path / "ca.crt", authority)
    write_certified(tmp_path / "server.crt", new_server(authority, ["localhost"]))
    write_secret(tmp_path / "secret.conf", tmp_path / "triton.env", "ab" * 32)
    many = [
        new_key(f"client_{number}", limits=RateLimits(rate_per_s=rate, concurrency=number + 1))[1]
        for number, rate in enumerate([0.5, 1, 2.5, 100, 1_000_000] * 40)
    ]
    (tmp_path / "keys.conf").write_text(nginx_keys(KeyFile(keys=tuple(many))))
    return tmp_path


@needs_nginx
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"listen": ("8443", "127.0.0.1:9443", "[::1]:9443")},
        {"secret": "secret.conf"},
        {"client_authorities": "ca.crt"},
        {"client_authorities": "ca.crt", "keys": None},
        {"upstreams": tuple(Upstream(grpc=f"127.0.0.{n}:1", http=f"127.0.0.{n}:2") for n in range(1, 9))},
        {"max_body_bytes": 1024, "client_timeout_s": 1, "inference_timeout_s": 1, "workers": 3},
        {"access_log": "syslog:server=127.0.0.1:5140,nohostname"},
    ],
)
def test_nginx_takes_it(folder: Path, fields) -> None:
    paths = {
        name: folder / value
        for name, value in fields.items()
        if name in ("secret", "client_authorities") and value
    }
    (folder / "nginx.conf").write_text(render(settings(folder, **{**fields, **paths})))
    check_configuration(find_nginx(), folder)


@needs_nginx
def test_what_nginx_refuses_is_one_sentence(folder: Path) -> None:
    (folder / "server.crt").write_text("no certificate")
    (folder / "nginx.conf").write_text(render(settings(folder)))
    with pytest.raises(
        GatewayError, match="nginx refuses the gateway's configuration: cannot load certificate"
    ):
        check_configuration(find_nginx(), folder)


def test_nothing_is_left_to_fill_in(folder: Path) -> None:
    text = render(settings(folder, secret=folder / "secret.conf", client_authorities=folder / "ca.crt"))
    assert "@{" not in text
    assert "server_tokens off" in text
    assert re.search(r"ssl_protocols TLSv1.2 TLSv1.3;", text)


def test_a_connection_outlives_a_key_or_certificate_by_15_s_at_most(folder: Path) -> None:
    """A busy one ``keepalive_time``, after which nginx lets it end, an idle one ``keepalive_timeout``."""
    text = re.sub(
        r"upstream \w+ \{.*?\}",
        "",
        render(settings(folder, client_authorities=folder / "ca.crt")),
        flags=re.S,
    )
    assert re.findall(r"keepalive_time (\w+);", text) == ["15s"]
    assert re.findall(r"keepalive_timeout (\w+);", text)[-1] == "15s", "the innermost holds"


@pytest.mark.parametrize(
    "fields",
    [
        {"certificate": "/x;}"},
        {"certificate": "relative.crt"},
        {"certificate": "/a b"},
        {"keys": "/x\ninclude /etc/passwd"},
        {"access_log": "/x; evil on"},
        {"access_log": "|tee"},
        {"listen": ("8443; evil",)},
        {"listen": ()},
        {"upstreams": ()},
        {"upstreams": ({"grpc": "h:1; x", "http": "h:2"},)},
        {"upstreams": ({"grpc": "h", "http": "h:2"},)},
        {"max_body_bytes": 0},
        {"unknown": 1},
        {"keys": None},
    ],
)
def test_a_setting_that_is_none(tmp_path: Path, fields) -> None:
    with pytest.raises(ValidationError):
        settings(tmp_path, **fields)


def test_the_secret_is_read_back(tmp_path: Path) -> None:
    write_secret(tmp_path / "secret.conf", tmp_path / "triton.env", "cd" * 32)
    assert read_secret(tmp_path / "triton.env") == "cd" * 32
    assert (tmp_path / "triton.env").stat().st_mode & 0o777 == 0o600
    (tmp_path / "triton.env").write_text("x")
    with pytest.raises(GatewayError, match="has no secret"):
        read_secret(tmp_path / "triton.env")
