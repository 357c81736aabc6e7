"""The gateway of ``detserve serve --gateway-port`` and ``detserve rollout``."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from detserve_server.commands.certs import app as certs
from detserve_server.gateway.process import running_gateway
from detserve_server.gateway.settings import Upstream
from detserve_server.rollout.traffic import Gateway
from tests.needs import needs_nginx

OLD, NEW = (Upstream(grpc=f"127.0.0.1:{port}", http=f"127.0.0.1:{port + 1}") for port in (20001, 20003))


@needs_nginx
def test_servers_of_a_roll_out_stay_when_a_certificate_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in (["init"], ["issue", "server", "--host", "localhost"]):
        assert CliRunner().invoke(certs, arguments).exit_code == 0
    tls = tmp_path / "tls/gateway"
    with running_gateway(
        [OLD], tls=tls, keys=None, require_client_certificate=True, access_log=tmp_path / "log"
    ) as gateway:
        rollout = Gateway(gateway.folder)
        assert rollout.settings().upstreams == (OLD,)
        rollout.direct([NEW])
        assert CliRunner().invoke(certs, ["issue", "server", "--host", "localhost"]).exit_code == 0
        gateway.reload()
        assert (gateway.folder / "server.crt").read_bytes() == (tls / "server.crt").read_bytes()
        configuration = (gateway.folder / "nginx.conf").read_text()
    assert NEW.grpc in configuration
    assert OLD.grpc not in configuration
