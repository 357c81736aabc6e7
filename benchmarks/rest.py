"""What plain HTTP costs: gRPC, KServe's HTTP and ``detserve rest`` in turn, one request and four at a time.

``make bench`` runs it, on the same pictures. Rounds are short, because a machine's own speed drifts within
seconds; a round's figures are over those of gRPC in the same round. Server, service and load share the
cores.
A second table is Frigate's request at rates of cameras: it waits for 0.1 s, and connects for each picture.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console

from detserve_perf.load.callers import Connect, callers, grpc_call, http_call
from detserve_perf.load.corpus import read_pictures
from detserve_perf.load.generator import HttpRequest, Run, answered
from detserve_perf.load.wire_requests import posted_requests, triton_grpc_requests, triton_http_requests
from detserve_perf.report.tables import Column, Report, Table
from detserve_perf.server.served import served_rest
from detserve_server.triton.embedded import embedded_server

CHECKOUT = Path(__file__).parents[1]
OUT = CHECKOUT / "out/bench"
MODEL = "codes_yolo"
REQUESTS, ROUNDS, WARM_UP = 60, 15, 20
CONCURRENCIES = (1, 4)
COLUMNS = (
    Column("way", "way"),
    Column("at a time", "concurrency"),
    Column("p50 ms", "p50_ms", 2),
    Column("more than gRPC, ms", "more_ms", 2),
    Column("pictures/s", "pictures_per_s"),
    Column("/ gRPC", "ratio", 3),
)
FRIGATE_RATES, FRIGATE_S = (5, 10, 20), 10
FRIGATE_COLUMNS = (
    Column("pictures/s", "rate_per_s"),
    Column("pictures", "pictures"),
    Column("p50 ms", "p50_ms"),
    Column("p99 ms", "p99_ms"),
    Column("most ms", "most_ms"),
)


def forms(pictures: Sequence[bytes]) -> list[HttpRequest]:
    """Each picture as a form, as ``curl -F image=@x.jpg`` sends it."""
    head = b'--B\r\nContent-Disposition: form-data; name="image"; filename="x.jpg"\r\n\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=B"}
    return [HttpRequest(head + picture + b"\r\n--B--\r\n", headers) for picture in pictures]


def ways(
    grpc_url: str, http_url: str, over_http: str, over_grpc: str, pictures: Sequence[bytes]
) -> dict[str, Connect]:
    """How a caller connects, by the name of the way; REST is named after how it asks the server."""
    detect = f"/v1/models/{MODEL}/detect"
    return {
        "gRPC": partial(grpc_call, grpc_url, triton_grpc_requests(MODEL, pictures)),
        "HTTP": partial(http_call, http_url, f"/v2/models/{MODEL}/infer", triton_http_requests(pictures)),
        "REST over HTTP": partial(http_call, over_http, detect, posted_requests(pictures)),
        "REST over HTTP, form": partial(http_call, over_http, detect, forms(pictures)),
        "REST over gRPC": partial(http_call, over_grpc, detect, posted_requests(pictures)),
    }


def run_of(connect: Connect, concurrency: int) -> Run:
    """One short run after a warm-up."""
    with callers(connect, concurrency) as send:
        answered(send(WARM_UP))
        return answered(send(REQUESTS))


def measured(connects: dict[str, Connect]) -> dict[tuple[int, str], list[tuple[float, float]]]:
    """p50 in ms and pictures/s of every round, by concurrency and way; the ways take turns."""
    found: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for _ in range(ROUNDS):
        for concurrency in CONCURRENCIES:
            for name, connect in connects.items():
                run = run_of(connect, concurrency)
                figures = (float(np.median(run.latencies_ms)), run.pictures_per_s)
                found.setdefault((concurrency, name), []).append(figures)
    return found


def frigate_rows(rest_url: str, pictures: Sequence[bytes]) -> list[tuple[object, ...]]:
    """p50, p99 and the most in ms of forms of 320x320 that come at a rate, each on its own connection."""
    small = [_scaled(picture) for picture in pictures]
    rows: list[tuple[object, ...]] = []
    for rate_per_s in FRIGATE_RATES:
        due_s, taken_ms = time.perf_counter(), []
        for number in range(rate_per_s * FRIGATE_S):
            due_s += 1 / rate_per_s
            time.sleep(max(0.0, due_s - time.perf_counter()))
            began_s = time.perf_counter()
            with http_call(rest_url, "/v1/vision/detection", forms(small)) as call:
                call(number)
            taken_ms.append(1e3 * (time.perf_counter() - began_s))
        rows.append((rate_per_s, len(taken_ms), *(float(np.percentile(taken_ms, q)) for q in (50, 99, 100))))
    return rows


def _scaled(picture: bytes) -> bytes:
    import cv2

    pixels = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    return cv2.imencode(".jpg", cv2.resize(pixels, (320, 320)))[1].tobytes()


def rows_of(found: dict[tuple[int, str], list[tuple[float, float]]]) -> list[tuple[object, ...]]:
    """Medians over the rounds; differences and ratios are medians of those within a round."""
    rows: list[tuple[object, ...]] = []
    for (concurrency, name), figures in found.items():
        pairs = list(zip(figures, found[concurrency, "gRPC"], strict=True))
        p50_ms, per_s = (statistics.median(column) for column in zip(*figures, strict=True))
        more_ms = statistics.median(own[0] - grpc[0] for own, grpc in pairs)
        ratio = statistics.median(own[1] / grpc[1] for own, grpc in pairs)
        rows.append((name, concurrency, p50_ms, more_ms, per_s, ratio))
    return rows


def main() -> None:
    """Serve, measure, print and write."""
    pictures = read_pictures(Path(sys.argv[1]) if len(sys.argv) > 1 else CHECKOUT / "zoo/samples")
    repository = Path(sys.argv[2]) if len(sys.argv) > 2 else CHECKOUT / "model_repository"
    with (
        embedded_server(repository, models=[MODEL]) as server,
        served_rest(server.http_url) as over_http,
        served_rest(server.grpc_url) as over_grpc,
    ):
        urls = (server.grpc_url, server.http_url, over_http.url, over_grpc.url)
        rows = rows_of(measured(ways(*urls, pictures)))
        frigate = frigate_rows(over_http.url, pictures)
    table = Table(f"medians of {ROUNDS} rounds of {REQUESTS} pictures, in turns", COLUMNS, rows)
    cameras = Table("Frigate's request, which waits for 100 ms", FRIGATE_COLUMNS, frigate)
    data = {"rows": rows, "frigate": frigate}
    report = Report("rest", "What plain HTTP costs", [table, cameras], [], [], data)
    report.print(Console(markup=False, emoji=False))
    report.write(OUT)


if __name__ == "__main__":
    main()
