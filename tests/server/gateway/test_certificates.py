"""Certificates, judged by an X.509 path validator that is not ours."""

from __future__ import annotations

import ipaddress
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from typer.testing import CliRunner

from detserve_server.commands.certs import app
from detserve_server.errors import CertificateError
from detserve_server.gateway.certificates.authority import (
    new_authority,
    new_client,
    new_server,
    read_certificate,
    read_certified,
    write_certified,
)
from detserve_server.gateway.certificates.expiry import expiry_of
from detserve_server.gateway.certificates.folder import CertificateFolder, key_of
from detserve_server.gateway.certificates.revocation import read_lists, write_list
from detserve_server.gateway.keys.key import utc_now

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
    "arguments", [["issue", "client", "--name", name] for name in ("../x", "", "é", "a b", "x" * 65)]
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


def judged(folder: CertificateFolder, certificate: Path) -> str:
    """What OpenSSL says of a client's certificate, the list asked of every authority of its chain."""
    command = ["openssl", "verify", "-crl_check_all", "-CAfile", folder.client_authorities]
    checked = subprocess.run(
        [*command, "-CRLfile", folder.revoked, "-purpose", "sslclient", certificate],
        capture_output=True,
        text=True,
    )
    return "valid" if checked.returncode == 0 else checked.stderr


@pytest.fixture
def issued(tmp_path: Path) -> CertificateFolder:
    """An authority with two clients; alice has a second certificate, the first is kept as "stolen"."""
    folder = CertificateFolder(tmp_path / "tls")
    certs("init", folder=folder.root)
    for name in ("alice", "bob"):
        certs("issue", "client", "--name", name, folder=folder.root)
    (tmp_path / "stolen.crt").write_bytes(folder.client("alice").read_bytes())
    certs("issue", "client", "--name", "alice", folder=folder.root)
    return folder


@pytest.mark.parametrize("given", ["name", "serial number", "file"])
def test_one_certificate_is_revoked(issued: CertificateFolder, given: str) -> None:
    alice = issued.client("alice")
    wanted = {
        "name": "alice",
        "serial number": f"{read_certificate(alice).serial_number:X}",
        "file": str(alice),
    }
    assert "is revoked" in certs("revoke", wanted[given], folder=issued.root)
    assert "certificate revoked" in judged(issued, alice)
    assert judged(issued, issued.client("bob")) == "valid"
    assert "revoked" in certs("list", folder=issued.root)


def test_a_name_s_replaced_certificates_are_revoked_too(issued: CertificateFolder, tmp_path: Path) -> None:
    certs("rotate", "--all", folder=issued.root)
    certs("revoke", "alice", folder=issued.root)
    assert "certificate revoked" in judged(issued, tmp_path / "stolen.crt")
    assert len(read_lists(issued.revoked)[0]) == 3


@pytest.mark.parametrize("again", [["issue", "client", "--name", "alice"], ["rotate", "--all"]])
def test_a_revoked_client_gets_a_new_certificate(issued: CertificateFolder, tmp_path: Path, again) -> None:
    certs("revoke", "alice", folder=issued.root)
    certs(*again, folder=issued.root)
    assert judged(issued, issued.client("alice")) == "valid"
    assert "certificate revoked" in judged(issued, tmp_path / "stolen.crt")


def test_what_is_due_is_made_anew_unless_it_was_revoked(issued: CertificateFolder) -> None:
    certs("issue", "client", "--name", "alice", "--days", "0.0001", folder=issued.root)
    certs("revoke", "alice", folder=issued.root)
    certs("list", folder=issued.root)
    assert "alice" not in certs("rotate", folder=issued.root)
    assert "certificate revoked" in judged(issued, issued.client("alice"))


def test_the_list_is_good_for_as_long_as_the_authority(issued: CertificateFolder) -> None:
    certs("revoke", "alice", folder=issued.root)
    (revoked,) = read_lists(issued.revoked)
    assert revoked.next_update_utc == read_certificate(issued.authority).not_valid_after_utc
    assert revoked.last_update_utc < utc_now()


@pytest.mark.parametrize("wanted", ["carol", "cafe", "12", "gateway/server.crt", "other/clients/dave.crt"])
def test_what_cannot_be_revoked_is_said(issued: CertificateFolder, monkeypatch, wanted: str) -> None:
    monkeypatch.chdir(issued.root)
    certs("issue", "server", "--host", "localhost", folder=issued.root)
    certs("init", folder=issued.root / "other")
    certs("issue", "client", "--name", "dave", folder=issued.root / "other")
    with pytest.raises(CertificateError, match=r"expected a name|is not a client's certificate"):
        certs("revoke", wanted, folder=issued.root)
    assert not issued.revoked.exists()


def test_an_authority_without_a_list_is_named_before_its_clients_are_locked_out(
    issued: CertificateFolder, tmp_path: Path
) -> None:
    company = CertificateFolder(tmp_path / "company")
    certs("init", "--name", "company", folder=company.root)
    certs("issue", "client", "--name", "carol", folder=company.root)
    with issued.client_authorities.open("ab") as file:
        file.write(company.authority.read_bytes())
    with pytest.raises(
        CertificateError, match="accepts clients of CN=company, but .*clients.crl has no list"
    ):
        certs("revoke", "alice", folder=issued.root)
    assert not issued.revoked.exists()
    write_list(company, read_certified(company.authority), [], utc_now())
    issued.revoked.write_bytes(company.revoked.read_bytes())
    certs("revoke", "alice", folder=issued.root)
    assert judged(issued, company.client("carol")) == "valid"
    assert "certificate revoked" in judged(issued, issued.client("alice"))


def test_a_new_authority_of_the_same_name_begins_an_empty_list(issued: CertificateFolder) -> None:
    certs("revoke", "alice", folder=issued.root)
    issued.authority.unlink()
    certs("init", folder=issued.root)
    certs("issue", "client", "--name", "alice", folder=issued.root)
    assert judged(issued, issued.client("alice")) == "valid"


def test_revocations_at_once_are_all_on_the_list(issued: CertificateFolder) -> None:
    authority, now = read_certified(issued.authority), utc_now()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda serial: write_list(issued, authority, [serial], now), range(1, 41)))
    assert len(read_lists(issued.revoked)[0]) == 40


def test_a_file_that_is_no_list(issued: CertificateFolder) -> None:
    issued.revoked.write_text("nothing")
    with pytest.raises(CertificateError, match="has no revocation list, expected -----BEGIN X509 CRL-----"):
        certs("revoke", "alice", folder=issued.root)
    assert issued.revoked.read_text() == "nothing"
