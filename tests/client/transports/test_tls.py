"""Both clients over TLS: the key they show, the certificates they check and are checked by."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from detserve_client import (
    AccessDenied,
    AsyncClient,
    Card,
    Client,
    Detections,
    Endpoint,
    EndpointError,
    RequestRejected,
    Security,
    ServerUnavailable,
)
from detserve_client.engine.wire import config_with
from detserve_client.transports import grpc_messages
from detserve_server.gateway.certificates.authority import (
    new_authority,
    new_client,
    new_server,
    write_certified,
)
from tests.client.transports.raw_peer import peer
from tests.client.transports.triton_grpc import grpc_server, infer_response
from tests.client.transports.triton_http import Received, Reply, http_server, infer_reply

KEY = "a-key"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls")
    authority = new_authority("test")
    for name, certified in {
        "ca": authority,
        "server": new_server(authority, ["localhost", "127.0.0.1"]),
        "elsewhere": new_server(authority, ["pets.example"]),
        "client": new_client(authority, "camera"),
        "other": new_authority("other"),
    }.items():
        write_certified(path / f"{name}.crt", certified)
    return path


@contextmanager
def tls_server(
    protocol: str, card: Card, found: Detections, folder: Path, certificate: str = "server"
) -> Iterator[str]:
    """Wants a client certificate and the key; yields the URL."""

    def over_grpc(request: Any, context: grpc.ServicerContext) -> Any:
        if ("authorization", f"Bearer {KEY}") not in context.invocation_metadata():
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no key")
        return infer_response(found)

    def over_http(request: Received) -> Reply:
        return infer_reply(found) if request.headers["Authorization"] == f"Bearer {KEY}" else Reply(401)

    server, ca = folder / f"{certificate}.crt", folder / "ca.crt"
    if protocol == "grpc":
        credentials = grpc.ssl_server_credentials(
            [(server.with_suffix(".key").read_bytes(), server.read_bytes())], ca.read_bytes(), True
        )
        with grpc_server(card, over_grpc, credentials=credentials) as url:
            yield url
    else:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(ca))
        context.load_cert_chain(server, server.with_suffix(".key"))
        context.verify_mode = ssl.CERT_REQUIRED
        with http_server(card, over_http, tls=context) as url:
            yield url


def detect(kind: str, url: str, security: Security, picture: bytes = b"picture") -> Detections:
    async def go() -> Detections:
        async with AsyncClient(url, "pets", security=security) as client:
            return await client.detect(picture, timeout_s=5)

    if kind == "event loop":
        return asyncio.run(go())
    with Client(url, "pets", security=security) as client:
        return client.detect(picture, timeout_s=5)


@pytest.mark.parametrize("kind", ["threads", "event loop"])
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_key_and_certificates(card: Card, found: Detections, folder: Path, protocol: str, kind: str) -> None:
    ca, certificate = folder / "ca.crt", folder / "client.crt"
    with tls_server(protocol, card, found, folder) as url:
        assert detect(kind, url, Security(KEY, ca, certificate)) == found
        with pytest.raises(AccessDenied):
            detect(kind, url, Security("another", ca, certificate))
        with pytest.raises(ServerUnavailable, match=r"by an authority that is not known here; .* --ca FILE"):
            detect(kind, url, Security(KEY, folder / "other.crt", certificate))
        with pytest.raises(ServerUnavailable, match=r"want.* a certificate .*--certificate"):
            detect(kind, url, Security(KEY, ca))
        plain = url.replace("s://", "://")
        with pytest.raises(ServerUnavailable, match=r"does it want TLS \(grpcs:// or https://\)\?"):
            detect(kind, plain, Security())


def test_localhost_where_grpc_tells_of_its_other_address(card: Card, found: Detections, folder: Path) -> None:
    """Where nobody listens at ::1, the certificate that 127.0.0.1 shows is what matters."""
    refused = "last error: UNKNOWN: ipv6:%5B::1%5D:8001: connect: Connection refused (111)"
    with tls_server("grpc", card, found, folder) as url:
        endpoint = Endpoint.parse(url.replace("127.0.0.1", "localhost"))
        for ca, words in ((None, "an authority that is not known here; .* --ca FILE"), ("ca.crt", "refused")):
            secured = endpoint.secured(Security(ca=ca and folder / ca))
            error = grpc.aio.AioRpcError(
                grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), refused
            )
            with pytest.raises(ServerUnavailable, match=words):
                raise grpc_messages.mapped(error, secured, "pets", 1)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_certificate_for_another_host(card: Card, found: Detections, folder: Path, protocol: str) -> None:
    with tls_server(protocol, card, found, folder, certificate="elsewhere") as url:
        with pytest.raises(ServerUnavailable, match=r"is for another host; give a name that is in .* --url"):
            detect("threads", url, Security(KEY, folder / "ca.crt", folder / "client.crt"))


def test_the_port_of_another_protocol(card: Card, found: Detections, folder: Path) -> None:
    security = Security(KEY, folder / "ca.crt")
    with grpc_server(card, lambda request, context: infer_response(found)) as url:
        with pytest.raises(ServerUnavailable, match="does not speak TLS there; use grpc:// or http://"):
            detect("threads", url.replace("grpc:", "grpcs:"), security)
    with http_server(card, lambda request: infer_reply(found)) as url:
        with pytest.raises(ServerUnavailable, match="does not speak gRPC there; is that its HTTP port"):
            detect("threads", url.replace("http:", "grpc:"), Security())


@pytest.mark.parametrize("kind", ["threads", "event loop"])
def test_a_refusal_before_all_is_sent(card: Card, folder: Path, kind: str) -> None:
    """As nginx says that a body is too large, and closes a moment later."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")

    def serve(listener: socket.socket) -> None:
        for _ in range(2):
            with context.wrap_socket(listener.accept()[0], server_side=True) as connection:
                if connection.recv(65536).startswith(b"GET"):
                    body = json.dumps(config_with(card)).encode()
                    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + body)
                else:
                    connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
                    time.sleep(0.3)

    picture = b"\xff\xd8" + bytes(20_000_000)
    with peer(serve) as url, pytest.raises(RequestRejected):
        detect(kind, url.replace("http", "https"), Security(ca=folder / "ca.crt"), picture)


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_a_key_does_not_travel_without_tls(client: Any) -> None:
    with pytest.raises(EndpointError, match="an API key and certificates need TLS"):
        client("grpc://localhost", "pets", security=Security(KEY))
