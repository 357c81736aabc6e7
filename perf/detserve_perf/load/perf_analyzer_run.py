"""One point of load: perf_analyzer at one concurrency and batch size."""

from __future__ import annotations

import csv
import io
import math
import subprocess
from dataclasses import dataclass
from pathlib import Path

from detserve_client.engine.faults import plain
from detserve_core.endpoint import Endpoint
from detserve_core.proxies import is_this_machine, without_proxies
from detserve_perf.errors import MeasurementError
from detserve_perf.load.perf_analyzer import PerfAnalyzer

_WINDOWS = 3  # perf_analyzer reports the last three windows together
_US_PER_MS = 1e3


@dataclass(frozen=True)
class LoadPoint:
    """``concurrency`` requests in flight at a time, ``batch`` pictures in each."""

    concurrency: int
    batch: int = 1


@dataclass(frozen=True)
class LoadResult:
    """What perf_analyzer saw from the client's side; latencies are of whole requests."""

    pictures_per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float


def run_load(
    analyzer: PerfAnalyzer, endpoint: Endpoint, model: str, corpus: Path, point: LoadPoint, requests: int
) -> LoadResult:
    """Send at least ``requests`` requests with the pictures of ``corpus`` (see :func:`corpus.input_data`).

    Raises :class:`MeasurementError` when perf_analyzer fails, e.g. because a request failed.
    """
    report = corpus.with_suffix(".csv")
    report.unlink(missing_ok=True)
    command = [
        str(analyzer.program),
        *("-m", model, "-u", endpoint.address, "-i", endpoint.protocol),
        *("--input-data", str(corpus), "-b", str(point.batch)),
        *("--concurrency-range", str(point.concurrency)),
        *("--measurement-mode", "count_windows"),
        *("--measurement-request-count", str(math.ceil(requests / _WINDOWS))),
        # Repeats and their spread say how stable the figures are; perf_analyzer shall report every run.
        *("--stability-percentage", "1000000", "--max-trials", str(_WINDOWS), "--percentile", "99"),
        *("-f", str(report)),
    ]
    environment = analyzer.environment()
    if is_this_machine(endpoint.host):
        environment = without_proxies(environment)
    timeout_s = 120 + requests * point.batch
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise MeasurementError(
            f"{_at(point)} did not finish within {timeout_s} s; send fewer --requests"
        ) from None
    if done.returncode != 0 or not report.is_file():
        reason = _reason(done.stdout + done.stderr) or f"exit status {done.returncode}"
        raise MeasurementError(f"perf_analyzer failed at {_at(point)}: {reason}")
    return parse_report(report.read_text(), point)


def parse_report(text: str, point: LoadPoint) -> LoadResult:
    """Read perf_analyzer's CSV; raises :class:`MeasurementError` when the point is not in it."""
    for row in csv.DictReader(io.StringIO(text)):
        if row.get("Concurrency") != str(point.concurrency):
            continue
        try:
            return LoadResult(
                pictures_per_s=float(row["Inferences/Second"]),
                p50_ms=float(row["p50 latency"]) / _US_PER_MS,
                p90_ms=float(row["p90 latency"]) / _US_PER_MS,
                p99_ms=float(row["p99 latency"]) / _US_PER_MS,
            )
        except (KeyError, TypeError, ValueError):
            break
    raise MeasurementError(
        f"perf_analyzer's report lacks {_at(point)}; expected its columns of 2.49 or later"
    )


def _at(point: LoadPoint) -> str:
    return f"concurrency {point.concurrency}, batch {point.batch}"


def _reason(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if "had error:" in line] or lines[-1:]
    return plain(telling[0].partition("had error:")[2] or telling[0]) if telling else ""
