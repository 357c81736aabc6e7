"""How long a client certificate opens: sessions, open connections, revocation, and whose name it says.

Behind this nginx there is no Triton: who may enter gets 503.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from detserve_core.machine.ports import choose_ports, is_free
from detserve_server.commands.certs import app as certs_app
from detserve_server.commands.gateway import app as gateway_app
from detserve_server.errors import CertificateError, GatewayError
from detserve_server.gateway.certificates.authority import (
    Certified,
    new_authority,
    new_client,
    read_certificate,
    read_certified,
    write_certified,
)
from detserve_server.gateway.certificates.folder import CertificateFolder, key_of
from detserve_server.gateway.certificates.revocation import write_list
from detserve_server.gateway.keys.key import new_key, utc_now
from detserve_server.gateway.keys.store import KeyFile, change_keys, nginx_keys
from detserve_server.gateway.process import RunningGateway, find_nginx, running_gateway
from detserve_server.gateway.settings import RateLimits, Upstream
from tests.live.gateway.conftest import own_certificates, wait_for

NOBODY = Upstream(grpc="127.0.0.1:1", http="127.0.0.1:1")
UNLIMITED = RateLimits(rate_per_s=1_000_000, concurrency=1000)
ENTERED, REFUSED, CLOSED = 503, 401, None
SHORT_S = 3.0
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@dataclass
class Door:
    """A gateway that wants client certificates, and its authority."""

    gateway: RunningGateway
    tls: CertificateFolder
    authority: Certified

    def certs(self, *arguments: str) -> str:
        result = CliRunner().invoke(certs_app, [*arguments, "--tls", str(self.tls.root)])
        if result.exception is not None:
            raise result.exception
        return result.stdout

    def context(
        self, certificate: Path | None, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    ) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.tls.authority)
        context.minimum_version = context.maximum_version = version
        if certificate is not None:
            context.load_cert_chain(certificate, key_of(certificate))
        return context

    def connect(self, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
        raw = socket.create_connection((self.gateway.host, self.gateway.port), timeout=5)
        return context.wrap_socket(raw, server_hostname="localhost", session=session)

    def entry(self, certificate: Path | None) -> int | None:
        with self.connect(self.context(certificate)) as connection:
            return ask(connection)

    def reason(self, certificate: Path | None) -> str:
        with self.connect(self.context(certificate)) as connection:
            return answer(connection).decode()


def answer(connection: ssl.SSLSocket, header: str = "") -> bytes:
    """The head of an answer and what came with it; nothing from a connection that is closed."""
    received = b""
    try:
        connection.sendall(f"GET /v2 HTTP/1.1\r\nHost: g\r\n{header}\r\n".encode())
        while not received.endswith(b"}") and (part := connection.recv(65536)):
            received += part
    except (ConnectionError, ssl.SSLError):
        return b""
    return received


def ask(connection: ssl.SSLSocket) -> int | None:
    received = answer(connection)
    return int(received.split(b" ", 2)[1]) if received else CLOSED


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    tls = CertificateFolder(tmp_path / "tls")
    authority = own_certificates(tls)
    with running_gateway(
        [NOBODY],
        tls=tls.gateway,
        keys=None,
        require_client_certificate=True,
        access_log=tmp_path / "access.jsonl",
    ) as gateway:
        yield Door(gateway, tls, authority)


def short_lived(door: Door, name: str) -> tuple[Path, float]:
    """A certificate that is good for three seconds; when it ends."""
    path = door.tls.client(name)
    write_certified(path, new_client(door.authority, name, days=SHORT_S / 86400))
    return path, time.time() + SHORT_S


def exchange_authority(door: Door) -> None:
    """Another authority of the same name takes the first one's place."""
    write_certified(door.tls.client_authorities, new_authority("test authority"))
    key_of(door.tls.client_authorities).unlink()
    probe = door.tls.client("probe")
    write_certified(probe, new_client(door.authority, "probe"))
    wait_for(lambda: all(door.entry(probe) == REFUSED for _ in range(8)))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("fault", ["expired", "of an exchanged authority", "revoked"])
def test_a_session_does_not_outlive_its_certificate(door: Door, version, fault: str) -> None:
    certificate, ends_s = short_lived(door, "alice")
    if fault != "expired":
        write_certified(certificate, new_client(door.authority, "alice"))
    context = door.context(certificate, version)
    with door.connect(context) as connection:
        assert ask(connection) == ENTERED
        session = connection.session
    if fault == "expired":
        time.sleep(ends_s + 1.5 - time.time())
    elif fault == "revoked":
        door.certs("revoke", "alice")
        wait_for(lambda: all(door.entry(certificate) == REFUSED for _ in range(8)))
    else:
        exchange_authority(door)
    for _ in range(4):
        with door.connect(context, session) as connection:
            assert (connection.session_reused, ask(connection)) == (False, REFUSED)


def test_openssl_cannot_resume_either(door: Door, tmp_path: Path) -> None:
    certificate, ends_s = short_lived(door, "alice")
    request = "GET /v2 HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n"
    for version in ("-tls1_2", "-tls1_3"):
        session = tmp_path / f"session{version}"
        client = ["openssl", "s_client", "-connect", f"127.0.0.1:{door.gateway.port}", version, "-ign_eof"]
        client += ["-CAfile", str(door.tls.authority), "-cert", certificate, "-key", key_of(certificate)]
        write_certified(certificate, new_client(door.authority, "alice", days=SHORT_S / 86400))
        ends_s = time.time() + SHORT_S
        first = subprocess.run([*client, "-sess_out", session], input=request, capture_output=True, text=True)
        assert "HTTP/1.1 503" in first.stdout
        time.sleep(ends_s + 1.5 - time.time())
        again = ["-sess_in", session] if session.exists() else []
        second = subprocess.run([*client, *again], input=request, capture_output=True, text=True)
        assert "Reused, TLS" not in second.stdout
        assert "HTTP/1.1 401" in second.stdout


def test_without_client_certificates_sessions_are_resumed(tmp_path: Path) -> None:
    """The control: this client does resume where it is let."""
    tls = CertificateFolder(tmp_path / "tls")
    authority = own_certificates(tls)
    change_keys(tmp_path / "keys.json", lambda _: KeyFile(keys=(new_key("alice")[1],)))
    log = tmp_path / "access.jsonl"
    with running_gateway([NOBODY], tls=tls.gateway, keys=tmp_path / "keys.json", access_log=log) as gateway:
        door = Door(gateway, tls, authority)
        for version in VERSIONS:
            context = door.context(None, version)
            with door.connect(context) as connection:
                ask(connection)
                session = connection.session
            with door.connect(context, session) as connection:
                ask(connection)
                assert connection.session_reused


@pytest.mark.slow
def test_an_open_connection_does_not_outlive_its_certificate_by_much(door: Door) -> None:
    """At most two times 15 s, by nginx's timers; then it is closed, and the next one refused."""

    def last_entry_s(pause_s: float) -> float:
        certificate, ends_s = short_lived(door, f"every_{pause_s:.0f}_s")
        with door.connect(door.context(certificate)) as connection:
            entered_s = 0.0
            while ask(connection) == ENTERED:
                entered_s = time.time() - ends_s
                assert entered_s < 120
                time.sleep(pause_s)
        assert door.entry(certificate) == REFUSED
        return entered_s

    with ThreadPoolExecutor(2) as pool:
        busy_s, idle_s = pool.map(last_entry_s, (0.5, 13.5))
    print(f"last entry after expiry: {busy_s:.1f} s busy, {idle_s:.1f} s mostly idle", file=sys.stderr)


def test_a_revocation_reaches_a_running_gateway(door: Door, tmp_path: Path) -> None:
    for name in ("alice", "bob"):
        door.certs("issue", "client", "--name", name)
    alice, bob = door.tls.client("alice"), door.tls.client("bob")
    with door.connect(door.context(alice)) as opened, door.connect(door.context(bob)) as other:
        assert (ask(opened), ask(other)) == (ENTERED, ENTERED)
        assert "within seconds" in door.certs("revoke", "alice")
        revoked_s = time.monotonic()
        while ask(opened) == ENTERED:
            time.sleep(0.01)
            assert time.monotonic() - revoked_s < 60
        print(f"an open connection: {time.monotonic() - revoked_s:.2f} s", file=sys.stderr)
    wait_for(lambda: all(door.entry(alice) == REFUSED for _ in range(8)))
    assert "certificate revoked" in door.reason(alice)
    assert door.entry(bob) == ENTERED
    door.certs("issue", "client", "--name", "alice")
    assert door.entry(alice) == ENTERED
    door.certs("revoke", "bob")
    wait_for(lambda: all(door.entry(bob) == REFUSED for _ in range(8)))


@pytest.mark.slow
def test_a_grpc_connection_that_is_never_idle_ends(door: Door) -> None:
    door.certs("issue", "client", "--name", "alice")
    alice = door.tls.client("alice")
    credentials = grpc.ssl_channel_credentials(
        door.tls.authority.read_bytes(), key_of(alice).read_bytes(), alice.read_bytes()
    )
    with grpc.secure_channel(f"127.0.0.1:{door.gateway.port}", credentials) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")

        def code() -> grpc.StatusCode:
            try:
                call(b"", timeout=5)
            except grpc.RpcError as error:
                return error.code()
            raise AssertionError("nobody is behind this gateway")

        def last_entry_s(revoked_s: float) -> float:
            entered_s = 0.0
            while code() != grpc.StatusCode.UNAUTHENTICATED:
                entered_s = time.monotonic() - revoked_s
                assert entered_s < 120
            return entered_s

        assert code() == grpc.StatusCode.UNAVAILABLE
        door.certs("revoke", "alice")
        with ThreadPoolExecutor(8) as pool:
            last_s = max(pool.map(last_entry_s, [time.monotonic()] * 8))
    print(f"8 threads on one gRPC connection: {last_s:.1f} s", file=sys.stderr)


def company(door: Door) -> tuple[CertificateFolder, Certified]:
    """Another authority beside ours in clients.crt, with a client, carol."""
    folder = CertificateFolder(door.tls.root.parent / "company")
    authority = new_authority("company")
    write_certified(folder.authority, authority)
    folder.gateway.mkdir()
    folder.client_authorities.write_bytes(folder.authority.read_bytes())
    write_certified(folder.client("carol"), new_client(authority, "carol"))
    with door.tls.client_authorities.open("ab") as file:
        file.write(folder.authority.read_bytes())
    wait_for(lambda: all(door.entry(folder.client("carol")) == ENTERED for _ in range(8)))
    return folder, authority


def test_a_company_s_clients_are_not_locked_out_in_silence(door: Door, tmp_path: Path) -> None:
    other, authority = company(door)
    carol, alice = other.client("carol"), door.tls.client("alice")
    door.certs("issue", "client", "--name", "alice")
    with pytest.raises(CertificateError, match="accepts clients of CN=company, but .* has no list"):
        door.certs("revoke", "alice")
    write_list(other, authority, [], utc_now())
    assert (door.entry(alice), door.entry(carol)) == (ENTERED, ENTERED)
    door.tls.revoked.write_bytes(other.revoked.read_bytes())  # the company's alone
    with pytest.raises(CertificateError, match="accepts clients of CN=test authority, but .* has no list"):
        door.gateway.reload()
    time.sleep(1.5)
    assert (door.entry(alice), door.entry(carol)) == (ENTERED, ENTERED)
    door.certs("revoke", "alice")
    wait_for(lambda: all(door.entry(alice) == REFUSED for _ in range(8)))
    assert door.entry(carol) == ENTERED
    door.tls.revoked.unlink()
    with pytest.raises(CertificateError, match=r"clients.crl is gone, .*; put it back"):
        door.gateway.reload()
    assert door.entry(alice) == REFUSED


def test_a_list_that_ran_out_is_named_to_the_client(door: Door) -> None:
    other, authority = company(door)
    carol = other.client("carol")
    door.certs("issue", "client", "--name", "bob")
    ended = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(utc_now() - timedelta(days=2))
        .next_update(utc_now() - timedelta(days=1))
        .sign(authority.key, hashes.SHA256())
    )
    door.tls.revoked.write_bytes(ended.public_bytes(serialization.Encoding.PEM))
    door.certs("revoke", "bob")
    wait_for(lambda: all(door.entry(carol) == REFUSED for _ in range(8)))
    assert "CRL has expired" in door.reason(carol)


def test_an_nginx_in_a_container_takes_up_the_list(tmp_path: Path) -> None:
    """As rendered once, before and after the first revocation; ``tls`` is what the container sees."""
    tls = CertificateFolder(tmp_path / "state")
    own_certificates(tls)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/tls").symlink_to(tls.gateway)
    port = choose_ports({"nginx": None})["nginx"]
    log = tmp_path / "access.jsonl"
    (tmp_path / "keys.conf").write_text(nginx_keys(KeyFile()))
    arguments = {
        "--output": tmp_path / "etc/gateway",
        "--configuration": tmp_path / "etc/gateway",
        "--tls": tmp_path / "etc/tls",
        "--keys": tmp_path / "keys.conf",
        "--triton": "127.0.0.1",
        "--listen": f"127.0.0.1:{port}",
        "--access-log": log,
    }
    given = [str(part) for pair in arguments.items() for part in pair]
    result = CliRunner().invoke(gateway_app, ["render", *given, "--require-client-certificate"])
    assert result.exit_code == 0, result.output
    configuration = tmp_path / "etc/gateway/nginx.conf"
    configuration.write_text(configuration.read_text().replace("pid /tmp/", f"pid {tmp_path}/"))
    command = [find_nginx(), "-e", "stderr", "-c", configuration, "-g", "daemon off;"]
    with subprocess.Popen(command) as nginx:
        try:
            wait_for(lambda: not is_free(port))
            running = RunningGateway(
                "127.0.0.1", port, configuration.parent, nginx.pid, log, nginx, lambda: None
            )
            door = Door(running, tls, read_certified(tls.authority))
            door.certs("issue", "client", "--name", "alice")
            alice = tls.client("alice")
            assert "no key was sent" in door.reason(alice)
            door.certs("revoke", "alice")
            running.reload()
            wait_for(lambda: "certificate revoked" in door.reason(alice))
            door.certs("issue", "client", "--name", "alice")
            assert "no key was sent" in door.reason(alice)
        finally:
            nginx.terminate()


def test_a_rendered_configuration_finds_the_list_or_is_not_rendered(tmp_path: Path) -> None:
    given = ["--output", str(tmp_path), "--triton", "t", "--tls", "/srv/certificates"]
    result = CliRunner().invoke(gateway_app, ["render", *given, "--require-client-certificate"])
    assert isinstance(result.exception, GatewayError)
    assert "expected X/tls and X/gateway" in str(result.exception)
    assert not list(tmp_path.iterdir())


# ---- whose name a certificate says

PIECES = ["CN=", "a", "1", ",", "+", "=", "\\", " ", "#", '"', "<", ">", ";", "é", ".", "\n"]
ODD = st.lists(st.sampled_from(PIECES), min_size=1, max_size=9).map("".join)
VALUES = st.sampled_from(["alice", "bob", "x,CN=evil", "x+CN=evil", "x\\,CN=evil", "CN=evil", "\\"]) | ODD
TYPES = st.sampled_from(
    [NameOID.COMMON_NAME, NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME, NameOID.USER_ID, NameOID.TITLE]
)
ATTRIBUTES = st.builds(lambda kind, value: x509.NameAttribute(kind, value), TYPES, VALUES)
SUBJECTS = st.builds(
    lambda parts: x509.Name([x509.RelativeDistinguishedName(part) for part in parts]),
    st.lists(st.lists(ATTRIBUTES, min_size=1, max_size=3, unique=True), max_size=4),
)


def certificate_of(door: Door, subject: x509.Name) -> Path:
    made = new_client(door.authority, "template")
    template = made.certificate
    builder = x509.CertificateBuilder(
        template.issuer,
        subject,
        template.public_key(),
        x509.random_serial_number(),
        template.not_valid_before_utc,
        template.not_valid_after_utc,
        list(template.extensions),
    )
    path = door.tls.client("subject")
    write_certified(path, Certified(builder.sign(door.authority.key, hashes.SHA256()), made.key))
    return path


def logged(door: Door, said: bytes | str) -> dict[str, str]:
    """The line of an answer's request; nginx writes it after the answer."""
    found = re.search(r"X-Request-Id: (\w+)", said if isinstance(said, str) else said.decode())
    assert found
    log = door.gateway.access_log
    wait_for(lambda: found[1] in log.read_text() and log.read_text().endswith("\n"))
    return json.loads(next(line for line in log.read_text().splitlines() if found[1] in line))


@pytest.fixture(scope="module")
def open_door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """Without limits, for many requests of one name."""
    folder = tmp_path_factory.mktemp("subjects")
    tls = CertificateFolder(folder / "tls")
    authority = own_certificates(tls)
    options = {"require_client_certificate": True, "certificate_limits": UNLIMITED}
    log = folder / "access.jsonl"
    with running_gateway([NOBODY], tls=tls.gateway, keys=None, access_log=log, **options) as gateway:
        yield Door(gateway, tls, authority)


@settings(max_examples=150, deadline=None)
@given(SUBJECTS)
def test_a_client_is_its_only_common_name(open_door: Door, subject: x509.Name) -> None:
    names = [str(found.value) for found in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    named = len(names) == 1 and re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", names[0]) is not None
    said = open_door.reason(certificate_of(open_door, subject))
    assert said.startswith("HTTP/1.1 503" if named else "HTTP/1.1 401"), subject
    assert named or "exactly one common name" in said
    assert logged(open_door, said)["client"] == (names[0] if named else "")


def rdn(*attributes: tuple[x509.ObjectIdentifier, str]) -> x509.RelativeDistinguishedName:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an empty value is too short
        parts = [x509.NameAttribute(kind, value, _validate=False) for kind, value in attributes]
    return x509.RelativeDistinguishedName(parts)


CN, O = NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME  # noqa: E741


@pytest.mark.parametrize(
    ("subject", "client"),
    [
        ([rdn((CN, "alice")), rdn((CN, "bob"))], ""),
        ([rdn((CN, "bob")), rdn((O, "x")), rdn((CN, "alice"))], ""),
        ([rdn((CN, "alice"), (CN, "bob"))], ""),
        ([rdn((O, "x"), (CN, "alice"), (CN, "bob"))], ""),
        ([rdn((CN, "alice")), rdn((CN, "not printable é"))], ""),
        ([rdn((CN, ""))], ""),
        ([rdn((CN, "")), rdn((CN, "alice"))], ""),
        ([rdn((O, "alice"))], ""),
        ([], ""),
        ([rdn((CN, "alice"), (O, "x"))], "alice"),
        ([rdn((O, "x,CN=evil")), rdn((CN, "alice"))], "alice"),
        ([rdn((O, "x\\")), rdn((CN, "alice"))], "alice"),
        ([rdn((CN, "alice")), rdn((O, "x\\,CN=evil"))], "alice"),
        ([rdn((O, "x+CN=evil"), (CN, "alice"))], "alice"),
    ],
)
def test_subjects_with_more_and_fewer_names(open_door: Door, subject, client: str) -> None:
    said = open_door.reason(certificate_of(open_door, x509.Name(subject)))
    assert said.startswith("HTTP/1.1 503" if client else "HTTP/1.1 401")
    assert logged(open_door, said)["client"] == client


def test_a_key_names_the_client_and_the_log_has_the_subject(door: Door, tmp_path: Path) -> None:
    key, record = new_key("warehouse")
    change_keys(tmp_path / "keys.json", lambda _: KeyFile(keys=(record,)))
    certificate = certificate_of(door, x509.Name([rdn((CN, "alice")), rdn((CN, "bob"))]))
    log = tmp_path / "both.jsonl"
    options = {"require_client_certificate": True, "keys": tmp_path / "keys.json"}
    with running_gateway([NOBODY], tls=door.tls.gateway, access_log=log, **options) as gateway:
        both = Door(gateway, door.tls, door.authority)
        with both.connect(both.context(certificate)) as connection:
            said = answer(connection, f"Authorization: Bearer {key}\r\n")
        assert said.startswith(b"HTTP/1.1 503")
        line = logged(both, said)
        assert (line["client"], line["certificate_subject"]) == ("warehouse", "CN=bob,CN=alice")
        write_list(door.tls, door.authority, [read_certificate(certificate).serial_number], utc_now())
        wait_for(lambda: "certificate revoked" in both.reason(certificate))
