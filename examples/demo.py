"""The main job in one page: serve the committed detectors, detect in the sample pictures, draw, measure.

Three architectures, one client call. Run by ``make demo``; writes annotated pictures and detections.json
into out/demo/.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from detserve_client import Client, Detections
from detserve_core.pictures.drawing import save_drawn
from detserve_server.triton.embedded import RunningServer, embedded_server

CHECKOUT = Path(__file__).parents[1]
OUT = CHECKOUT / "out/demo"
SAMPLES = CHECKOUT / "zoo/samples"
MODELS = ("codes_yolo", "codes_ssd", "codes_rcnn")
REPEATS = 20


def timed_ms(client: Client, picture: Path) -> tuple[Detections, float]:
    """Detections, and the median milliseconds of one request after a first one."""
    encoded = picture.read_bytes()
    found = client.detect(encoded)
    durations_ms = []
    for _ in range(REPEATS):
        start_s = time.perf_counter()
        client.detect(encoded)
        durations_ms.append((time.perf_counter() - start_s) * 1000)
    return found, statistics.median(durations_ms)


def show(server: RunningServer, model: str) -> dict[str, list[dict[str, object]]]:
    """Detect in every sample with one model, draw, print a table; the detections by picture."""
    folder = OUT / model
    folder.mkdir(parents=True, exist_ok=True)
    table = Table(
        "picture", "found", f"latency (median of {REPEATS})", title=f"{model}, one request at a time"
    )
    results = {}
    with Client(server.grpc_url, model) as client:
        for picture in track(sorted(SAMPLES.glob("*.jpg")), model):
            found, latency_ms = timed_ms(client, picture)
            save_drawn(picture, found, folder / picture.name)
            results[picture.name] = found.to_dicts()
            names = ", ".join(f"{row.label} {row.score:.2f}" for row in found) or "nothing"
            table.add_row(picture.name, names, f"{latency_ms:.1f} ms")
    Console().print(table)
    return results


def main() -> None:
    """Serve once, show every detector."""
    OUT.mkdir(parents=True, exist_ok=True)
    with embedded_server(CHECKOUT / "model_repository") as server:
        results = {model: show(server, model) for model in MODELS}
    (OUT / "detections.json").write_text(json.dumps(results, indent=2) + "\n")
    print(f"annotated pictures and detections.json are in {OUT.relative_to(CHECKOUT)}/")


if __name__ == "__main__":
    main()
