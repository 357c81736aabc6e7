"""A change of keys or certificates is in force, or is said not to be; these gateways need no Triton."""

from __future__ import annotations

import json
import os
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import urllib3
from typer.testing import CliRunner, Result

from detserve_core.errors import DetserveError
from detserve_server.commands.keys import app
from detserve_server.errors import GatewayError
from detserve_server.gateway.certificates.authority import new_server, write_certified
from detserve_server.gateway.certificates.folder import CertificateFolder
from detserve_server.gateway.keys.gateways import known_gateways
from detserve_server.gateway.keys.in_force import wait_until_in_force
from detserve_server.gateway.keys.key import KeyRecord, new_key, utc_now
from detserve_server.gateway.keys.nginx import read_serial
from detserve_server.gateway.keys.store import KeyFile, change_keys, nginx_file
from detserve_server.gateway.process import RunningGateway, running_gateway
from detserve_server.gateway.settings import RateLimits, Upstream
from tests.live.gateway.conftest import own_certificates, wait_for

NOBODY = Upstream(grpc="127.0.0.1:1", http="127.0.0.1:2")
MANY_MODELS = tuple(f"detector_{number:05}" for number in range(300))


@dataclass
class Door:
    """A gateway before nothing: 401 for a key that is not let in, 503 for one that is."""

    gateway: RunningGateway
    tls: CertificateFolder
    keys: Path

    def lets_in(self, text: str) -> bool:
        return self.status("/v2/health/live", f"Bearer {text}") != 401

    def status(self, path: str, authorization: str = "") -> int:
        with urllib3.PoolManager(cert_reqs="CERT_NONE") as pool:
            url = self.gateway.http_url + path
            return pool.request("GET", url, headers={"Authorization": authorization}, retries=False).status

    def is_in_force(self) -> bool:
        return wait_until_in_force(self.keys, known_gateways(self.keys, []), wait_s=60)[0].after_s is not None

    def metric(self, name: str) -> int:
        text = self.gateway.access_log.with_name("gateway.prom").read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} "))

    def certificate(self) -> str:
        return ssl.get_server_certificate((self.gateway.host, self.gateway.port))


@contextmanager
def door(folder: Path, *records: KeyRecord) -> Iterator[Door]:
    folder.chmod(0o755)
    tls, keys = CertificateFolder(folder / "tls"), folder / "keys/keys.json"
    own_certificates(tls)
    change_keys(keys, lambda _: KeyFile(keys=records))
    with running_gateway(
        [NOBODY], tls=tls.gateway, keys=keys, access_log=folder / "log/access.jsonl"
    ) as gateway:
        yield Door(gateway, tls, keys)


def command(*arguments: str, keys: Path) -> Result:
    return CliRunner().invoke(app, [*arguments, "--keys", str(keys)], catch_exceptions=False)


def test_a_command_returns_when_its_change_is_in_force(tmp_path: Path) -> None:
    with door(tmp_path) as site:
        made = command("create", "--client", "alice", keys=site.keys)
        text = made.stdout.strip()
        assert f"in force at {site.gateway.http_url} after" in made.stderr
        assert site.lets_in(text)
        key_id = text.split("_")[1]
        command("scope", key_id, "--models", "other", keys=site.keys)
        assert site.status("/v2/models/shop/ready", f"Bearer {text}") == 403
        assert "in force" in command("revoke", key_id, keys=site.keys).stderr
        assert not any(site.lets_in(text) for _ in range(20))
        assert site.metric("detserve_gateway_changes_total") == 3
    assert known_gateways(site.keys, []) == []


def test_one_record_that_nginx_refuses_blocks_nothing(tmp_path: Path, capfd) -> None:
    text, leaving = new_key("leaving")
    odd, odd_record = new_key("odd", models=MANY_MODELS)
    rates = [new_key("a", limits=RateLimits(rate_per_s=rate))[1] for rate in (100, 100.00001)]
    with door(tmp_path, leaving, *rates, odd_record) as site:
        assert site.lets_in(text)
        assert not site.lets_in(odd)
        assert command("revoke", leaving.id, keys=site.keys).exit_code == 0
        assert not site.lets_in(text)
        assert command("revoke", odd_record.id, keys=site.keys).exit_code == 0
    assert capfd.readouterr().err.count(f"Key {odd_record.id} of odd is left out") == 1


def test_a_link_is_followed_by_the_gateway(tmp_path: Path) -> None:
    text, key = new_key("leaving")
    with door(tmp_path, key) as site:
        link = tmp_path / "linked.json"
        link.symlink_to(site.keys)
        assert "in force" in command("revoke", key.id, keys=link).stderr
        assert not site.lets_in(text)


@pytest.mark.parametrize("broken", [b"", b'{"keys": 3}'])
def test_keys_that_cannot_be_read_are_said_once_and_block_no_certificate(
    tmp_path: Path, capfd, broken
) -> None:
    text, key = new_key("alice")
    with door(tmp_path, key) as site:
        good, old = site.keys.read_bytes(), site.certificate()
        site.keys.write_bytes(broken)
        wait_for(lambda: site.metric("detserve_gateway_change_refused") == 1)
        authority = own_certificates(CertificateFolder(tmp_path / "other"))
        write_certified(site.tls.server, new_server(authority, ["localhost"]))
        wait_for(lambda: site.certificate() != old)
        assert site.lets_in(text)
        site.keys.write_bytes(good)
        wait_for(lambda: site.metric("detserve_gateway_change_refused") == 0)
    said = capfd.readouterr().err
    assert said.count("gateway: the change of keys is not in force: ") == 1
    assert said.count("gateway: the change of keys is in force now") == 1


def test_certificates_that_nginx_refuses_block_no_revocation(tmp_path: Path, capfd) -> None:
    text, key = new_key("leaving")
    with door(tmp_path, key) as site:
        before, old = site.tls.server.read_bytes(), site.certificate()
        site.tls.server.write_text("no certificate")
        wait_for(lambda: site.metric("detserve_gateway_change_refused") == 1)
        assert command("revoke", key.id, keys=site.keys).exit_code == 0
        assert not site.lets_in(text)
        assert site.certificate() == old
        site.tls.server.write_bytes(before)
        wait_for(lambda: site.metric("detserve_gateway_change_refused") == 0)
    assert capfd.readouterr().err.count("the change of certificates is not in force: nginx refuses") == 1


def test_a_certificate_whose_link_points_elsewhere_is_taken_up(tmp_path: Path) -> None:
    with door(tmp_path) as site:
        old = site.certificate()
        folder = tmp_path / "next"
        folder.mkdir()
        authority = own_certificates(CertificateFolder(tmp_path / "other"))
        write_certified(folder / "server.crt", new_server(authority, ["localhost"]))
        for name in ("server.crt", "server.key"):
            link = site.tls.gateway / f"{name}.link"
            link.symlink_to(folder / name)
            link.replace(site.tls.gateway / name)
        wait_for(lambda: site.certificate() != old)
        first = site.certificate()
        write_certified(folder / "server.crt", new_server(authority, ["localhost"]))
        wait_for(lambda: site.certificate() != first)


def test_a_gateway_that_goes_by_other_keys_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(wait_until_in_force.__kwdefaults__, "wait_s", 1.0)
    text, key = new_key("leaving")
    elsewhere = tmp_path / "elsewhere/keys.json"
    change_keys(elsewhere, lambda _: KeyFile(keys=(key,)))
    with door(tmp_path, key) as site:
        named = ["--gateway", site.gateway.http_url]
        with pytest.raises(
            GatewayError, match=r"is revoked in .*still lets it in: it shows the keys of an earlier"
        ):
            command("revoke", key.id, *named, keys=elsewhere)
        assert site.lets_in(text)
        made = CliRunner().invoke(app, ["create", "--client", "a", "--keys", str(elsewhere), *named])
        assert made.exit_code == 1
        assert made.stdout.startswith("dsk_")
    with pytest.raises(GatewayError, match=r"has not shown it: it does not answer \(Connection refused\)"):
        command("expire", key.id, "--in", "1d", *named, keys=elsewhere)


def test_what_a_dead_gateway_announced_is_ignored_and_removed(tmp_path: Path) -> None:
    with door(tmp_path) as site:
        [announcement] = site.keys.parent.glob(".keys.json.gateway-*")
        content = json.loads(announcement.read_text())
    announcement.write_text(json.dumps(content))
    with pytest.raises(DetserveError, match="no running gateway is known"):
        key = new_key("a")[1]
        change_keys(site.keys, lambda _: KeyFile(keys=(key,)))
        command("revoke", key.id, keys=site.keys)
    assert not announcement.exists()


def test_the_serial_needs_no_key_and_is_not_asked_without_end(tmp_path: Path) -> None:
    with door(tmp_path) as site:
        with urllib3.PoolManager(cert_reqs="CERT_NONE", retries=False) as pool:
            url = f"{site.gateway.http_url}/gateway/keys"
            answers = [pool.request("GET", url).status for _ in range(100)]
        assert answers[0] == 200
        assert 429 in answers[20:]
        assert read_serial(nginx_file(site.keys))
        time.sleep(0.2)
        assert not site.gateway.access_log.read_text(), "neither is logged"
        # The health has an allowance of its own.
        assert site.status("/gateway/health") == 503


def test_the_zones_have_room_for_every_key(tmp_path: Path) -> None:
    """As many keys as fit into the smallest zone: none is forgotten while the others ask."""
    made = [new_key(f"client_{n}", limits=RateLimits(rate_per_s=1 / 60, concurrency=1)) for n in range(340)]
    with door(tmp_path, *(record for _, record in made)) as site:
        assert "zone=rate_1m_1:64k" in nginx_file(site.keys).read_text()
        with urllib3.PoolManager(cert_reqs="CERT_NONE", retries=False) as pool:
            url = f"{site.gateway.http_url}/v2/health/live"
            headers = [{"Authorization": f"Bearer {text}"} for text, _ in made]
            asked = [[pool.request("GET", url, headers=each).status for each in headers] for _ in range(3)]
    assert asked[0] == asked[1] == [503] * len(made)
    assert asked[2] == [429] * len(made)


def test_ten_thousand_keys(tmp_path: Path) -> None:
    (text, _), (other, _) = pairs = [new_key(f"client_{number}") for number in range(2)]
    made = [record for _, record in pairs] + [new_key(f"client_{n}")[1] for n in range(2, 10_000)]
    with door(tmp_path, *made) as site:
        revoked = made[0].model_copy(update={"revoked": utc_now()})
        change_keys(site.keys, lambda file: file.replaced(revoked))
        assert site.is_in_force()
        assert not site.lets_in(text)
        assert site.lets_in(other)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can write as another user")
def test_root_revokes_in_a_folder_of_the_container_s_user(tmp_path: Path) -> None:
    text, key = new_key("leaving")
    with door(tmp_path, key) as site:
        for path in (site.keys.parent, site.keys, nginx_file(site.keys)):
            os.chown(path, 1234, 1234)
        command("revoke", key.id, keys=site.keys)
        assert not site.lets_in(text)
        assert site.keys.stat().st_uid == nginx_file(site.keys).stat().st_uid == 1234
