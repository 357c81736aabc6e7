"""One real nginx before one real Triton, keys of every kind, and ways to send what no client would."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from detserve_client import Client, Security
from detserve_core.machine.whole_files import write_whole
from detserve_server.gateway.certificates.authority import (
    Certified,
    new_authority,
    new_server,
    write_certified,
)
from detserve_server.gateway.certificates.folder import CertificateFolder
from detserve_server.gateway.keys.key import new_key, utc_now
from detserve_server.gateway.keys.store import KeyFile, change_keys
from detserve_server.gateway.process import RunningGateway, running_gateway
from detserve_server.gateway.settings import RateLimits, Upstream
from detserve_server.gateway.shared_secret import new_secret
from detserve_server.triton.embedded import RunningServer, embedded_server
from tests.needs import needs_nginx

CHECKOUT = Path(__file__).parents[3]
YOLO, SSD = "codes_yolo", "codes_ssd"
UNLIMITED = RateLimits(rate_per_s=1_000_000, concurrency=1000)
CLIENT_TIMEOUT_S = 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(needs_nginx)


@dataclass
class Site:
    """A gateway, the Triton behind it, and who may enter."""

    triton: RunningServer
    gateway: RunningGateway
    tls: CertificateFolder
    authority: Certified
    secret: str
    keys_file: Path
    keys: dict[str, str]

    def url(self, protocol: str) -> str:
        return self.gateway.grpc_url if protocol == "grpc" else self.gateway.http_url

    def security(self, client: str | None = "alice") -> Security:
        return Security(api_key=None if client is None else self.keys[client], ca=self.tls.authority)

    def client(self, protocol: str, client: str | None = "alice", model: str = YOLO) -> Client:
        return Client(self.url(protocol), model, security=self.security(client), timeout_s=10)

    def add_key(self, client: str, **fields: Any) -> str:
        """A new key, known to nginx when this returns; its id."""
        self.keys[client], record = new_key(client, **fields)
        change_keys(self.keys_file, lambda file: KeyFile(keys=(*file.keys, record)))
        self.gateway.reload()
        # Old workers and new ones accept connections side by side for a moment.
        wait_for(lambda: all(self.status("GET", "/gateway", client) != 401 for _ in range(8)))
        return record.id

    def connect(self, alpn: Sequence[str] = ()) -> ssl.SSLSocket:
        raw = socket.create_connection((self.gateway.host, self.gateway.port), timeout=5)
        context = ssl.create_default_context(cafile=self.tls.authority)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context.wrap_socket(raw, server_hostname="localhost")

    def send(self, data: bytes) -> bytes:
        """What comes back for raw bytes on a TLS connection of their own, until it is closed."""
        with self.connect() as connection:
            connection.sendall(data)
            return read_all(connection)

    def status(self, method: str, target: str, client: str | None = "alice", body: bytes = b"") -> int:
        """The status for a request line sent as it is."""
        key = "" if client is None else f"Authorization: Bearer {self.keys[client]}\r\n"
        head = f"{method} {target} HTTP/1.1\r\nHost: g\r\n{key}Content-Length: {len(body)}\r\n"
        answer = self.send(head.encode("latin-1") + b"Connection: close\r\n\r\n" + body)
        return int(answer.split(b" ", 2)[1])

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.gateway.access_log.read_text().splitlines()]

    def last(self) -> dict[str, Any]:
        """The last line, once no other follows: nginx writes a line after it has answered."""
        wait_for(self.log)
        self.settled(0.3)
        return self.log()[-1]

    def settled(self, quiet_s: float = 0.5) -> int:
        """How many lines the log has once what was sent is in it: a closed connection is logged late."""
        lines = -1
        while (now := len(self.log())) != lines:
            lines = now
            time.sleep(quiet_s)
        return lines


def read_all(connection: socket.socket, *, must_close: bool = False) -> bytes:
    """What comes before the other side closes; or, unless it ``must_close``, before the timeout."""
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
    except TimeoutError:
        if must_close:
            raise
    except (ConnectionError, ssl.SSLError):
        pass
    return received


def wait_for(condition: Any) -> None:
    """Whatever the machine does meanwhile; the deadline is there for what will never be."""
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s, "not within a minute"
        time.sleep(0.05)


def upstream(triton: RunningServer) -> Upstream:
    return Upstream(
        grpc=triton.grpc_url.removeprefix("grpc://"), http=triton.http_url.removeprefix("http://")
    )


def own_certificates(folder: CertificateFolder) -> Certified:
    authority = new_authority("test authority")
    write_certified(folder.authority, authority)
    write_whole(folder.client_authorities, folder.authority.read_bytes())
    write_certified(folder.server, new_server(authority, ["localhost", "127.0.0.1"]))
    return authority


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Started once; no test may stop it."""
    folder = tmp_path_factory.mktemp("gateway")
    tls = CertificateFolder(folder / "tls")
    authority = own_certificates(tls)
    keys, records = {}, []
    past = utc_now() - timedelta(minutes=1)
    for client, fields in {
        "alice": {"limits": UNLIMITED},
        "bob": {"models": (SSD,), "limits": UNLIMITED},
        "expired": {"expires": past},
        "revoked": {},
    }.items():
        keys[client], record = new_key(client, **fields)
        records.append(record.model_copy(update={"revoked": past}) if client == "revoked" else record)
    keys["wrong"] = keys["alice"][:-8] + "AAAAAAAA"
    keys["mixed"] = keys["alice"][:17] + keys["bob"][17:]
    keys["nonsense"] = "let-me-in"
    change_keys(folder / "keys.json", lambda _: KeyFile(keys=tuple(records)))
    secret = new_secret()
    with (
        embedded_server(CHECKOUT / "model_repository", models=[YOLO, SSD], gateway_secret=secret) as triton,
        running_gateway(
            [upstream(triton)],
            tls=tls.gateway,
            keys=folder / "keys.json",
            secret=secret,
            access_log=folder / "access.jsonl",
            client_timeout_s=CLIENT_TIMEOUT_S,
        ) as gateway,
    ):
        yield Site(triton, gateway, tls, authority, secret, folder / "keys.json", keys)


@pytest.fixture(params=["grpc", "http"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)
