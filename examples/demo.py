"""The main job in one page: serve the committed detector, detect in the sample pictures, draw, measure.

Run by ``make demo``; writes annotated pictures and detections.json into out/demo/.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from detserve_client import DetectionClient, Detections
from detserve_client.drawing import save_drawn
from detserve_server.embedded import embedded_server

CHECKOUT = Path(__file__).parents[1]
OUT = CHECKOUT / "out/demo"
MODEL = "codes_yolo"
REPEATS = 20


def timed_ms(client: DetectionClient, picture: Path) -> tuple[Detections, float]:
    """Detections, and the median milliseconds of one request after a first one."""
    encoded = picture.read_bytes()
    found = client.detect(encoded)
    durations_ms = []
    for _ in range(REPEATS):
        start_s = time.perf_counter()
        client.detect(encoded)
        durations_ms.append((time.perf_counter() - start_s) * 1000)
    return found, statistics.median(durations_ms)


def main() -> None:
    """Serve, detect, draw, print."""
    OUT.mkdir(parents=True, exist_ok=True)
    pictures = sorted((CHECKOUT / "zoo/samples").glob("*.jpg"))
    table = Table(
        "picture", "found", "latency (median of 20)", title=f"{MODEL} on Triton, gRPC, one at a time"
    )
    results = {}
    with (
        embedded_server(CHECKOUT / "model_repository") as server,
        DetectionClient(server.grpc_url, MODEL) as client,
    ):
        for picture in track(pictures, "detecting"):
            found, latency_ms = timed_ms(client, picture)
            save_drawn(picture, found, OUT / picture.name)
            results[picture.name] = found.to_dicts()
            names = ", ".join(f"{row.label} {row.score:.2f}" for row in found) or "nothing"
            table.add_row(picture.name, names, f"{latency_ms:.1f} ms")
    (OUT / "detections.json").write_text(json.dumps(results, indent=2) + "\n")
    Console().print(table)
    print(f"annotated pictures and detections.json are in {OUT.relative_to(CHECKOUT)}/")


if __name__ == "__main__":
    main()
