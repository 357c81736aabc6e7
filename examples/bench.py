"""Measure the committed detector on this machine: ``make bench``, or ``make bench PICTURES=DIR``.

Writes the sweep (speed, beside the same steps in-process) and the accuracy on the sample scenes into
out/bench/. Keep the machine quiet meanwhile: the report says so when other work took its cores.
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


if __name__ == "__main__":
    main()
