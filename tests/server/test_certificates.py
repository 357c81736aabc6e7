"""Certificates, judged by an X.509 path validator that is not ours."""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from typer.testing import CliRunner

from detserve_server.certificates.authority import (
    new_authority,
    new_client,
    new_server,
    read_certificate,
    read_certified,
    write_certified,
)
from detserve_server.certificates.expiry import expiry_of
from detserve_server.certificates.folder import CertificateFolder, key_of
from detserve_server.commands.certs import app
from detserve_server.errors import CertificateError
from detserve_server.keys.key import utc_now

runner = CliRunner()


def certs(*arguments: str, folder: Path, exit_code: int = 0) -> str:
    result = runner.invoke(app, [*arguments, "--tls", str(folder)], catch_exceptions=False)
    assert result.exit_code == exit_code, result.output
    return result.stdout


def validator(authority):
    return PolicyBuilder().store(Store([authority.certificate]))


def test_a_server_s_certificate_is_accepted_for_its_hosts_only() -> None:
    authority = new_authority("a")
    leaf = new_server(
        authority, ["gateway.example.org", "*.wild.example.org", "192.0.2.7", "::1"]
    ).certificate
    accepted = [
        x509.DNSName("gateway.example.org"),
        x509.DNSName("x.wild.example.org"),
        x509.IPAddress(ipaddress.ip_address("192.0.2.7")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ]
    for name in accepted:
        validator(authority).build_server_verifier(name).verify(leaf, [])
    for name in [x509.DNSName("example.org"), x509.IPAddress(ipaddress.ip_address("192.0.2.8"))]:
        with pytest.raises(VerificationError):
            validator(authority).build_server_verifier(name).verify(leaf, [])
    with pytest.raises(VerificationError):
        validator(authority).build_client_verifier().verify(leaf, [])
    with pytest.raises(VerificationError):
        validator(new_authority("a")).build_server_verifier(accepted[0]).verify(leaf, [])


def test_a_client_s_certificate_is_no_server_s() -> None:
    authority = new_authority("a")
    leaf = new_client(authority, "alice").certificate
    assert "clientAuth" in str(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    with pytest.raises(VerificationError):
        validator(authority).build_server_verifier(x509.DNSName("alice")).verify(leaf, [])


def test_an_expired_one_is_refused() -> None:
    authority = new_authority("a")
    leaf = new_server(authority, ["localhost"], days=-1).certificate
    with pytest.raises(VerificationError):
        validator(authority).build_server_verifier(x509.DNSName("localhost")).verify(leaf, [])


def test_keys_are_private_p256_and_serials_differ(tmp_path: Path) -> None:
    authority = new_authority("a")
    made = [authority, *(new_client(authority, "alice") for _ in range(5))]
    assert len({one.certificate.serial_number for one in made}) == 6
    assert all(isinstance(one.key.curve, ec.SECP256R1) for one in made)
    write_certified(tmp_path / "a.crt", authority)
    assert key_of(tmp_path / "a.crt").stat().st_mode & 0o777 == 0o600
    assert read_certified(tmp_path / "a.crt").certificate == authority.certificate


@pytest.mark.parametrize("hosts", [[], [""], ["a b"], ["a/b"], ["http://a"], ["é"]])
def test_a_host_that_is_none(hosts) -> None:
    with pytest.raises(CertificateError, match="expected"):
        new_server(new_authority("a"), hosts)


def test_init_issue_list_rotate(tmp_path: Path) -> None:
    folder = CertificateFolder(tmp_path / "tls")
    certs("init", folder=folder.root)
    certs("issue", "server", "--host", "localhost", "--host", "127.0.0.1", folder=folder.root)
    certs("issue", "client", "--name", "alice", folder=folder.root)
    certs("issue", "client", "--name", "bob", "--days", "0.0001", folder=folder.root)
    report = certs("list", folder=folder.root, exit_code=1)  # bob's is due
    assert "due" in report
    before = {path: read_certificate(path) for path in folder.certificates()}
    said = certs("rotate", folder=folder.root)
    assert "bob" in said
    assert "alice" not in said
    certs("rotate", "--all", folder=folder.root)
    after = {path: read_certificate(path) for path in folder.certificates()}
    assert after[folder.authority] == before[folder.authority]
    for path in (folder.server, folder.client("alice"), folder.client("bob")):
        assert after[path].serial_number != before[path].serial_number
        assert after[path].subject == before[path].subject
    assert not (folder.gateway / "ca.key").exists()


def test_an_authority_is_not_replaced(tmp_path: Path) -> None:
    certs("init", folder=tmp_path)
    with pytest.raises(CertificateError, match="exists"):
        certs("init", folder=tmp_path)


@pytest.mark.parametrize(
    "arguments", [["issue", "client", "--name", "../x"], ["issue", "client", "--name", ""]]
)
def test_a_client_name_that_is_none(tmp_path: Path, arguments) -> None:
    certs("init", folder=tmp_path)
    with pytest.raises(CertificateError, match="expected up to 64"):
        certs(*arguments, folder=tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    for arguments in (["list"], ["rotate"], ["issue", "server", "--host", "a"]):
        with pytest.raises(CertificateError, match="detserve certs init"):
            certs(*arguments, folder=tmp_path)


def test_expiry_states(tmp_path: Path) -> None:
    write_certified(tmp_path / "a.crt", new_authority("a", days=90))
    now = utc_now()
    states = [expiry_of(tmp_path / "a.crt", now + timedelta(days=days)).state for days in (0, 59, 61, 91)]
    assert states == ["valid", "valid", "due", "expired"]


def test_a_key_of_another_certificate(tmp_path: Path) -> None:
    write_certified(tmp_path / "a.crt", new_authority("a"))
    write_certified(tmp_path / "b.crt", new_authority("b"))
    key_of(tmp_path / "a.crt").write_bytes(key_of(tmp_path / "b.crt").read_bytes())
    with pytest.raises(CertificateError, match="is not the private key of"):
        read_certified(tmp_path / "a.crt")
