"""What the client costs: Client, perf_analyzer, Client in turn, one request at a time.

``make bench`` runs it, on the same pictures. perf_analyzer does not look into the answers; the client makes
Detections of them.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from detserve_client import Client
from detserve_core.endpoint import Endpoint
from detserve_perf.load.corpus import input_data, read_pictures
from detserve_perf.load.perf_analyzer import find_perf_analyzer
from detserve_perf.load.perf_analyzer_run import LoadPoint, run_load
from detserve_perf.report.tables import Column, Report, Table
from detserve_server.triton.embedded import embedded_server

CHECKOUT = Path(__file__).parents[1]
OUT = CHECKOUT / "out/bench"
MODEL = "codes_yolo"
REQUESTS, ROUNDS, WARM_UP = 100, 15, 20  # short rounds: a machine's own speed drifts within seconds
COLUMNS = (
    Column("protocol", "protocol"),
    Column("round", "round"),
    Column("perf_analyzer p50 ms", "perf_analyzer_ms", 2),
    Column("client p50 ms", "client_ms", 2),
    Column("client more, ms", "more_ms", 2),
)


def client_p50_ms(url: str, pictures: list[bytes]) -> float:
    """Median of REQUESTS detections."""
    taken_s = []
    with Client(url, MODEL) as client:
        for number in range(WARM_UP + REQUESTS):
            started_s = time.perf_counter()
            client.detect(pictures[number % len(pictures)])
            taken_s.append(time.perf_counter() - started_s)
    return 1e3 * statistics.median(taken_s[WARM_UP:])


def main() -> None:
    """Serve, measure, print and write."""
    pictures = read_pictures(Path(sys.argv[1]) if len(sys.argv) > 1 else CHECKOUT / "zoo/samples")
    analyzer, rows = find_perf_analyzer(), []
    with (
        tempfile.TemporaryDirectory(prefix="detserve-bench-") as scratch,
        embedded_server(CHECKOUT / "model_repository", models=[MODEL]) as server,
    ):
        corpus = Path(scratch) / "corpus.json"
        corpus.write_text(input_data(pictures))
        for round_ in range(1, ROUNDS + 1):
            for protocol, url in (("gRPC", server.grpc_url), ("HTTP", server.http_url)):
                before_ms = client_p50_ms(url, pictures)
                own = run_load(analyzer, Endpoint.parse(url), MODEL, corpus, LoadPoint(1), REQUESTS)
                through_ms = (before_ms + client_p50_ms(url, pictures)) / 2
                rows.append((protocol, round_, own.p50_ms, through_ms, through_ms - own.p50_ms))
    medians = {
        protocol: statistics.median(row[-1] for row in rows if row[0] == protocol)
        for protocol in ("gRPC", "HTTP")
    }
    notes = [f"median of the rounds: {', '.join(f'{name} {ms:.2f} ms' for name, ms in medians.items())}"]
    table = Table(f"{REQUESTS} detections each round, one at a time", COLUMNS, rows)
    report = Report(
        "client", "What the client costs", [table], [], notes, {"rows": rows, "median_ms": medians}
    )
    report.print(Console())
    report.write(OUT)


if __name__ == "__main__":
    main()
