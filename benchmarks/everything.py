"""Measure the committed detector on this machine: ``make bench``, or ``make bench PICTURES=DIR``.

Writes into out/bench/: the sweep (speed, beside the same steps in-process), the accuracy on the sample
scenes, overload, the comparison with other servers, all with fp32 and all with INT8 (in int8/), how many
machines a rate takes, large JPEGs, what the client, plain HTTP and the gateway cost; and report.html. It
takes about 20 minutes; the first time the other servers are installed. Keep the machine quiet meanwhile: the
reports say so when other work took its cores.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.scenes import write_bench_scenes
from detserve_server.triton.embedded import embedded_server

CHECKOUT = Path(__file__).parents[1]
SAMPLES = CHECKOUT / "zoo/samples"
OUT = CHECKOUT / "out/bench"
MODEL, INT8 = "codes_yolo", "codes_yolo_int8"


def python(*arguments: object) -> None:
    """Run a module of this environment; a failure ends the bench."""
    subprocess.run([sys.executable, "-m", *map(str, arguments)], check=True, cwd=CHECKOUT)


def detserve(*arguments: object) -> None:
    """Run the command line."""
    python("detserve.command", *arguments)


def build_both(repository: Path) -> None:
    """The committed fp32 detector and, beside it, its INT8 one, searched for on scenes made for it."""
    if repository.exists():
        shutil.rmtree(repository)
    for name in (MODEL, f"{MODEL}_pipeline"):
        shutil.copytree(CHECKOUT / "model_repository" / name, repository / name)
    with tempfile.TemporaryDirectory(prefix="detserve-bench-") as folder:
        calibrate, evaluate = write_bench_scenes(Path(folder))
        measured = ("--evaluate", evaluate / "instances.json", "--images", evaluate)
        built = ("--name", INT8, "--repository", repository, "--precision", "int8")
        detserve("build", MODEL, *built, "--calibrate", calibrate, *measured)


def main() -> None:
    """Serve and measure."""
    pictures = Path(sys.argv[1]).absolute() if len(sys.argv) > 1 else SAMPLES
    repository = OUT / "repository"
    build_both(repository)
    with embedded_server(repository, models=[MODEL]) as server:
        served = ("--url", server.grpc_url, "--model", MODEL)
        sweep = ("--pictures", pictures, "--repository", repository, "--output", OUT)
        detserve("perf", "sweep", *served, *sweep)
        scenes = ("--dataset", SAMPLES / "instances.json", "--images", SAMPLES, "--output", OUT)
        detserve("perf", "accuracy", *served, *scenes)
        flooded = ("--url", server.http_url, "--model", MODEL)  # requests over HTTP cost the sender less
        detserve("perf", "overload", *flooded, "--pictures", pictures, "--output", OUT)
    own = ("--repository", repository, "--model", MODEL, "--pictures", pictures, "--output", OUT)
    detserve("perf", "compare", *own)
    chosen = ("--repository", repository, "--model", INT8, "--pictures", pictures, "--output", OUT / "int8")
    detserve("perf", "compare", *chosen)
    (OUT / "plan.json").unlink(missing_ok=True)  # of an earlier run
    with contextlib.suppress(subprocess.CalledProcessError):  # it says so when the machine was not steady
        detserve("perf", "plan", *own, "--rate", 1000, "--p99", 100)
    python("benchmarks.large", repository, pictures, MODEL, INT8)
    python("benchmarks.placements", "ceilings", "detector")
    python("benchmarks.client", pictures)
    python("benchmarks.rest", pictures)
    if shutil.which("nginx"):
        python("benchmarks.gateway")
    detserve("perf", "report", OUT, OUT / "int8", "--output", OUT / "report.html")


if __name__ == "__main__":
    main()
