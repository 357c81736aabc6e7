"""What reduced decoding gains: pictures of 4000x3000, decoded whole and reduced, served in turn.

``make bench`` runs it. The reduced decoding is the same repository with one field of its card changed.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from detserve_core.endpoint import Endpoint
from detserve_perf.load.corpus import input_data, read_pictures
from detserve_perf.load.perf_analyzer import find_perf_analyzer
from detserve_perf.load.perf_analyzer_run import LoadPoint, run_load
from detserve_perf.report.tables import Column, Report, Table
from detserve_server.triton.embedded import embedded_server

CHECKOUT = Path(__file__).parents[1]
OUT = CHECKOUT / "out/bench"
SIZE_WH, QUALITY, PICTURES = (4000, 3000), 90, 16
CONCURRENCY, REQUESTS, ROUNDS = 4, 96, 3
WHOLE, REDUCED = (rf"\"decode\":\"{decode}\"" for decode in ("whole", "reduced"))  # as in config.pbtxt
COLUMNS = (
    Column("model", "model"),
    Column("round", "round"),
    Column("whole, pictures/s", "whole_per_s", 1),
    Column("reduced, pictures/s", "reduced_per_s", 1),
    Column("times as fast", "ratio", 2),
)


def enlarged(encoded: bytes) -> bytes:
    """The picture at SIZE_WH, as JPEG."""
    import cv2
    import numpy as np

    picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    large = cv2.resize(picture, SIZE_WH, interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".jpg", large, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def decoding_reduced(repository: Path, model: str, copy: Path) -> None:
    """A copy of ``model`` whose card says ``decode: reduced``."""
    for name in (model, f"{model}_pipeline"):
        shutil.copytree(repository / name, copy / name)
    config = copy / f"{model}_pipeline/config.pbtxt"
    text = config.read_text()
    if WHOLE not in text:
        raise SystemExit(f"{config} does not decode whole, as this bench expects")
    config.write_text(text.replace(WHOLE, REDUCED))


def main() -> None:
    """``benchmarks.large REPOSITORY PICTURES MODEL...``: serve, measure, print and write."""
    repository, folder, *models = sys.argv[1:]
    analyzer, rows = find_perf_analyzer(), []
    with tempfile.TemporaryDirectory(prefix="detserve-bench-") as scratch:
        corpus = Path(scratch) / "corpus.json"
        large = [enlarged(picture) for picture in read_pictures(Path(folder))[:PICTURES]]
        corpus.write_text(input_data(large))
        for model in models:
            decoding_reduced(Path(repository), model, Path(scratch) / model)
            with (
                embedded_server(Path(repository), models=[model]) as whole,
                embedded_server(Path(scratch) / model, models=[model]) as reduced,
            ):
                for round_ in range(1, ROUNDS + 1):
                    per_s = [
                        run_load(
                            analyzer,
                            Endpoint.parse(server.grpc_url),
                            model,
                            corpus,
                            LoadPoint(CONCURRENCY),
                            REQUESTS,
                        ).pictures_per_s
                        for server in (whole, reduced)
                    ]
                    rows.append((model, round_, *per_s, per_s[1] / per_s[0]))
    size_mb = statistics.mean(map(len, large)) / 1e6
    facts = [("pictures", f"{len(large)} JPEGs of 4000x3000, quality {QUALITY}, {size_mb:.2f} MB each")]
    table = Table(f"gRPC, {CONCURRENCY} requests at a time", COLUMNS, rows)
    report = Report("large", "Large JPEGs", [table], facts, [], {"rows": rows, "mean_bytes": 1e6 * size_mb})
    report.print(Console())
    report.write(OUT)


if __name__ == "__main__":
    main()
