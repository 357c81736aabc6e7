"""TLS, and client certificates."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from detserve_client import AccessDenied, Client, InferenceError, Security, ServerUnavailable
from detserve_server.errors import GatewayError
from detserve_server.gateway.certificates.authority import (
    new_authority,
    new_client,
    new_server,
    write_certified,
)
from detserve_server.gateway.certificates.folder import CertificateFolder
from detserve_server.gateway.process import RunningGateway, running_gateway
from detserve_server.gateway.settings import Upstream
from tests.live.gateway.conftest import YOLO, Site, own_certificates, read_all, upstream


@contextmanager
def gateway_of(site: Site, tls: CertificateFolder, log: Path, **options) -> Iterator[RunningGateway]:
    with running_gateway(
        [upstream(site.triton)], tls=tls.gateway, secret=site.secret, access_log=log, **options
    ) as gateway:
        yield gateway


@pytest.fixture(scope="module", params=["certificate and key", "certificate alone"])
def mutual(request, site: Site, tmp_path_factory) -> Iterator[tuple[RunningGateway, str | None]]:
    """A gateway that wants client certificates, and the key to send with them."""
    keys = site.keys_file if request.param == "certificate and key" else None
    log = tmp_path_factory.mktemp("mutual") / "access.jsonl"
    with gateway_of(site, site.tls, log, keys=keys, require_client_certificate=True) as gateway:
        yield gateway, site.keys["alice"] if keys else None


def client_of(gateway: RunningGateway, protocol: str, security: Security) -> Client:
    url = gateway.grpc_url if protocol == "grpc" else gateway.http_url
    return Client(url, YOLO, security=security, timeout_s=3)


def test_a_client_certificate_opens(site: Site, mutual, protocol, sample, tmp_path) -> None:
    gateway, key = mutual
    write_certified(tmp_path / "alice.crt", new_client(site.authority, "alice"))
    security = Security(api_key=key, ca=site.tls.authority, certificate=tmp_path / "alice.crt")
    with client_of(gateway, protocol, security) as client:
        assert len(client.detect(sample)) > 0
    last = gateway.access_log.read_text().splitlines()[-1]
    assert '"client":"alice"' in last
    assert '"certificate_subject":"CN=alice"' in last


@pytest.mark.parametrize("fault", ["none", "expired", "foreign", "a server's"])
def test_no_client_certificate_and_bad_ones(site: Site, mutual, protocol, fault, tmp_path) -> None:
    gateway, key = mutual
    made = {
        "none": None,
        "expired": new_client(site.authority, "alice", days=-1),
        "foreign": new_client(new_authority("test authority"), "alice"),
        "a server's": new_server(site.authority, ["alice"]),
    }[fault]
    if made is not None:
        write_certified(tmp_path / "alice.crt", made)
    certificate = None if made is None else tmp_path / "alice.crt"
    security = Security(api_key=key, ca=site.tls.authority, certificate=certificate)
    with client_of(gateway, protocol, security) as client, pytest.raises(AccessDenied, match="certificate"):
        client.card()


@pytest.mark.parametrize("fault", ["expired", "foreign", "for another host"])
def test_a_client_refuses_a_gateway_that_is_not_the_one(site: Site, protocol, fault, tmp_path) -> None:
    tls = CertificateFolder(tmp_path / "tls")
    authority = own_certificates(tls)
    hosts, days = (["elsewhere.example"], 1.0) if fault == "for another host" else (["127.0.0.1"], 1.0)
    if fault == "expired":
        days = -1.0
    write_certified(tls.server, new_server(authority, hosts, days=days))
    trusted = site.tls.authority if fault == "foreign" else tls.authority
    with gateway_of(site, tls, tmp_path / "access.jsonl", keys=site.keys_file) as gateway:
        with client_of(gateway, protocol, Security(api_key=site.keys["alice"], ca=trusted)) as client:
            with pytest.raises(InferenceError) as caught:
                client.card()
    assert isinstance(caught.value, ServerUnavailable)
    assert not (tmp_path / "access.jsonl").read_text(), "the key was sent"


def test_plain_http_to_the_tls_port(site: Site) -> None:
    with socket.create_connection((site.gateway.host, site.gateway.port), timeout=5) as connection:
        key = site.keys["alice"]
        connection.sendall(f"GET /v2 HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {key}\r\n\r\n".encode())
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"this port speaks TLS only" in answer
    assert site.last()["upstream_s"] is None


@pytest.mark.parametrize(
    ("version", "ciphers"),
    [
        (ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0"),
        (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0"),
    ],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_weak_tls(site: Site, version, ciphers) -> None:
    """The same handshake succeeds with a server of the same certificate that allows it."""
    context = weakened(ssl.create_default_context(cafile=site.tls.authority), version, ciphers)
    with allowing_weak_tls(site.tls, version, ciphers) as address:
        with socket.create_connection(address, timeout=5) as raw:
            assert context.wrap_socket(raw, server_hostname="localhost").version() == version.name.replace(
                "_", "."
            )
    with socket.create_connection((site.gateway.host, site.gateway.port), timeout=5) as raw:
        with pytest.raises(ssl.SSLError, match="alert"):
            context.wrap_socket(raw, server_hostname="localhost")


def weakened(context: ssl.SSLContext, version: ssl.TLSVersion, ciphers: str) -> ssl.SSLContext:
    context.minimum_version, context.maximum_version = ssl.TLSVersion.MINIMUM_SUPPORTED, version
    context.set_ciphers(ciphers)
    return context


@contextmanager
def allowing_weak_tls(
    tls: CertificateFolder, version: ssl.TLSVersion, ciphers: str
) -> Iterator[tuple[str, int]]:
    """A server of one connection; its address."""
    context = weakened(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), version, ciphers)
    context.load_cert_chain(tls.server, tls.server.with_suffix(".key"))
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:

        def serve() -> None:
            connection, _ = listener.accept()
            with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as secured:
                read_all(secured)

        pool.submit(serve)
        yield listener.getsockname()


def test_the_folder_above_the_gateway_s_is_told_from_none(tmp_path: Path) -> None:
    (tmp_path / "gateway").mkdir()
    (tmp_path / "gateway/server.crt").touch()
    at = Upstream(grpc="127.0.0.1:1", http="127.0.0.1:1")
    starting = running_gateway([at], tls=tmp_path, keys=None, access_log=tmp_path / "access.jsonl")
    with pytest.raises(GatewayError, match=rf"give --tls {tmp_path}/gateway"), starting:
        pass
