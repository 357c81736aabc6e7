"""perf_analyzer's report, and what is said when it fails. The CSV was written by perf_analyzer 2.49."""

from pathlib import Path

import pytest

from detserve_core.endpoint import Endpoint
from detserve_perf.errors import MeasurementError
from detserve_perf.load.perf_analyzer import PerfAnalyzer
from detserve_perf.load.perf_analyzer_run import LoadPoint, LoadResult, parse_report, run_load

REPORT = (Path(__file__).parent / "perf_analyzer_2.49.csv").read_text()
POINT = LoadPoint(concurrency=2, batch=4)


def test_a_real_report_is_read_in_milliseconds() -> None:
    assert parse_report(REPORT, POINT) == LoadResult(
        pictures_per_s=59.9172, p50_ms=116.884, p90_ms=141.564, p99_ms=196.168
    )


@pytest.mark.parametrize(
    "text", ["", REPORT.replace("\n2,", "\n3,"), REPORT.replace("p99 latency", "p98 latency"), REPORT[:190]]
)
def test_a_report_without_the_point_is_refused(text: str) -> None:
    with pytest.raises(MeasurementError, match="concurrency 2, batch 4"):
        parse_report(text, POINT)


def _program(folder: Path, script: str) -> PerfAnalyzer:
    """A program that ends as perf_analyzer was seen to end."""
    program = folder / "perf_analyzer"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return PerfAnalyzer(program)


def _run(analyzer: PerfAnalyzer, folder: Path) -> LoadResult:
    return run_load(
        analyzer, Endpoint.parse("grpc://127.0.0.1:8001"), "codes", folder / "corpus.json", POINT, 60
    )


def test_a_failed_request_is_an_error_with_the_servers_words(tmp_path) -> None:
    words = "Thread [0] had error: in ensemble 'codes', not a JPEG picture"
    analyzer = _program(tmp_path, f'echo "Failed to maintain load."; echo "{words}" >&2; exit 99')
    with pytest.raises(MeasurementError, match=r"failed at concurrency 2, batch 4: not a JPEG picture$"):
        _run(analyzer, tmp_path)


def test_success_without_a_report_is_an_error(tmp_path) -> None:
    (tmp_path / "corpus.csv").write_text(REPORT)  # left by a run before
    with pytest.raises(MeasurementError, match="exit status 0"):
        _run(_program(tmp_path, "exit 0"), tmp_path)


def test_the_program_is_told_the_point_and_the_protocol(tmp_path) -> None:
    report = 'for last; do :; done; echo "$@" > arguments; cat report > "$last"'
    (tmp_path / "report").write_text(REPORT)
    analyzer = _program(tmp_path, f'cd "{tmp_path}"; {report}')
    assert _run(analyzer, tmp_path).p50_ms == 116.884
    arguments = (tmp_path / "arguments").read_text()
    assert "-u 127.0.0.1:8001 -i grpc" in arguments
    assert "-b 4 --concurrency-range 2" in arguments
    assert "--measurement-request-count 20" in arguments
