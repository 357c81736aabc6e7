"""What the gateway costs: detections sent in turn, straight to Triton and through TLS, key and limits.

``make bench`` runs it; it needs nginx. Prints medians of both ways over both protocols.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from detserve_client import Security
from detserve_client.engine.wire import DetectionRequest
from detserve_client.transports import GrpcTransport, HttpTransport
from detserve_core.endpoint import Endpoint
from detserve_core.machine.whole_files import write_whole
from detserve_core.security import AsTheGateway
from detserve_perf.report.tables import Column, Report, Table
from detserve_server.gateway.certificates.authority import new_authority, new_server, write_certified
from detserve_server.gateway.certificates.folder import CertificateFolder
from detserve_server.gateway.keys.key import new_key
from detserve_server.gateway.keys.store import KeyFile, change_keys
from detserve_server.gateway.process import running_gateway
from detserve_server.gateway.settings import RateLimits, Upstream
from detserve_server.gateway.shared_secret import new_secret
from detserve_server.triton.embedded import embedded_server

CHECKOUT = Path(__file__).parents[1]
OUT = CHECKOUT / "out/bench"
MODEL = "codes_yolo"
REQUESTS, ROUNDS = 200, 3


def medians_ms(ways: dict[str, GrpcTransport | HttpTransport], encoded: bytes) -> dict[str, float]:
    """Of each way, the requests taking turns."""
    taken_s: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(REQUESTS + 5):
        for name, way in ways.items():
            started_s = time.perf_counter()
            way.infer(DetectionRequest(MODEL, (encoded,)), 10)
            if turn >= 5:
                taken_s[name].append(time.perf_counter() - started_s)
    return {name: 1000 * statistics.median(values) for name, values in taken_s.items()}


def main() -> None:
    """Serve, measure, print and write."""
    encoded = (CHECKOUT / "zoo/samples/scene_1.jpg").read_bytes()
    secret, (key, record) = (
        new_secret(),
        new_key("bench", limits=RateLimits(rate_per_s=1_000_000, concurrency=64)),
    )
    rows = []
    with tempfile.TemporaryDirectory(prefix="detserve-bench-") as scratch:
        folder = Path(scratch)
        tls = CertificateFolder(folder / "tls")
        authority = new_authority("bench")
        write_certified(tls.authority, authority)
        write_whole(tls.client_authorities, tls.authority.read_bytes())
        write_certified(tls.server, new_server(authority, ["localhost", "127.0.0.1"]))
        change_keys(folder / "keys.json", lambda _: KeyFile(keys=(record,)))
        with (
            embedded_server(CHECKOUT / "model_repository", models=[MODEL], gateway_secret=secret) as triton,
            running_gateway(
                [Upstream(grpc=triton.grpc_url.split("//")[1], http=triton.http_url.split("//")[1])],
                tls=tls.gateway,
                keys=folder / "keys.json",
                secret=secret,
                access_log=folder / "access.jsonl",
            ) as gateway,
        ):
            security = Security(api_key=key, ca=tls.authority)
            for protocol, transport, straight, through in (
                ("gRPC", GrpcTransport, triton.grpc_url, gateway.grpc_url),
                ("HTTP", HttpTransport, triton.http_url, gateway.http_url),
            ):
                past = replace(Endpoint.parse(straight), security=AsTheGateway(secret=secret))
                ways = {
                    "straight": transport(past),
                    "through": transport(Endpoint.parse(through).secured(security)),
                }
                for round_ in range(1, ROUNDS + 1):
                    found = medians_ms(ways, encoded)
                    cost = found["through"] - found["straight"]
                    rows.append((protocol, round_, found["straight"], found["through"], cost))
    columns = [
        Column("protocol", "protocol"),
        Column("round", "round"),
        Column("straight p50 ms", "straight_ms"),
        Column("through p50 ms", "through_ms"),
        Column("gateway ms", "gateway_ms"),
    ]
    table = Table(f"{REQUESTS} detections each way and round, taking turns", columns, rows)
    report = Report("gateway", "What the gateway costs", [table], [], [], {"rows": rows})
    report.print(Console())
    report.write(OUT)


if __name__ == "__main__":
    main()
