"""Measure the committed detector on this machine: ``make bench``, or ``make bench PICTURES=DIR``.

Writes into out/bench/ the sweep (speed, beside the same steps in-process), the accuracy on the sample scenes,
the comparisons with other servers and of placements, and report.html of all of them. It takes about seven
minutes; the first time the other servers are installed. Keep the machine quiet meanwhile: the reports say so
when other work took its cores.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from detserve_server.embedded import embedded_server

CHECKOUT = Path(__file__).parents[1]
SAMPLES = CHECKOUT / "zoo/samples"
REPOSITORY = CHECKOUT / "model_repository"
OUT = CHECKOUT / "out/bench"
MODEL = "codes_yolo"


def detserve(*arguments: object) -> None:
    """Run the command line of this environment; a failure ends the bench."""
    subprocess.run(
        [sys.executable, "-m", "detserve_client.command", *map(str, arguments)], check=True, cwd=CHECKOUT
    )


def main() -> None:
    """Serve and measure."""
    pictures = Path(sys.argv[1]) if len(sys.argv) > 1 else SAMPLES
    with embedded_server(REPOSITORY) as server:
        served = ("--url", server.grpc_url, "--model", MODEL)
        sweep = ("--pictures", pictures, "--repository", REPOSITORY, "--output", OUT)
        detserve("perf", "sweep", *served, *sweep)
        scenes = ("--dataset", SAMPLES / "instances.json", "--images", SAMPLES, "--output", OUT)
        detserve("perf", "accuracy", *served, *scenes)
    own = ("--repository", REPOSITORY, "--model", MODEL, "--pictures", pictures, "--output", OUT)
    detserve("perf", "compare", *own)
    detserve("perf", "placement", *own)
    detserve("perf", "report", OUT, "--output", OUT / "report.html")


if __name__ == "__main__":
    main()
