"""Only a program that starts is taken for perf_analyzer."""

import shutil
from pathlib import Path

import pytest

from detserve_perf.errors import MeasurementError
from detserve_perf.load.perf_analyzer import PerfAnalyzer, find_perf_analyzer, why_not_starting

TRUE, FALSE = shutil.which("true") or "", shutil.which("false") or ""


@pytest.fixture(autouse=True)
def bare_path(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "path"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_a_program_on_path_that_starts_is_taken(bare_path) -> None:
    shutil.copy(TRUE, bare_path / "perf_analyzer")
    assert find_perf_analyzer() == PerfAnalyzer(bare_path / "perf_analyzer")


def test_the_wheels_script_on_path_is_passed_over(bare_path, tmp_path) -> None:
    script = bare_path / "perf_analyzer"
    script.write_text("#!/bin/sh\nexit 0\n")
    script.chmod(0o755)
    cached = _cached(tmp_path, TRUE)
    assert find_perf_analyzer(tmp_path).program in (cached, *_installed_wheel())


def test_a_program_that_does_not_start_is_passed_over(bare_path, tmp_path) -> None:
    shutil.copy(FALSE, bare_path / "perf_analyzer")
    cached = _cached(tmp_path, TRUE)
    assert find_perf_analyzer(tmp_path).program in (cached, *_installed_wheel())


def test_a_broken_cache_is_named(tmp_path) -> None:
    if _installed_wheel():
        pytest.skip("the perf-analyzer wheel is installed and wins over the cache")
    _cached(tmp_path, FALSE)
    with pytest.raises(
        MeasurementError, match=r"perf_analyzer-2\.49\.0 does not start .* delete that folder"
    ):
        find_perf_analyzer(tmp_path)


def test_libraries_come_before_those_of_the_environment(monkeypatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/there")
    assert PerfAnalyzer(Path("x"), Path("/here")).environment()["LD_LIBRARY_PATH"] == "/here:/there"
    monkeypatch.delenv("LD_LIBRARY_PATH")
    assert PerfAnalyzer(Path("x"), Path("/here")).environment()["LD_LIBRARY_PATH"] == "/here"


def test_the_reason_for_not_starting_is_the_programs_last_line(tmp_path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho first >&2\necho libb64.so.0d: cannot open >&2\nexit 127\n")
    program.chmod(0o755)
    assert why_not_starting(PerfAnalyzer(program)) == "libb64.so.0d: cannot open"
    assert "No such file" in str(why_not_starting(PerfAnalyzer(tmp_path / "absent")))


def _cached(cache: Path, program: str) -> Path:
    place = cache / "perf_analyzer-2.49.0" / "bin" / "perf_analyzer"
    place.parent.mkdir(parents=True)
    shutil.copy(program, place)
    return place


def _installed_wheel() -> list[Path]:
    from importlib.util import find_spec

    spec = find_spec("perf_analyzer")
    folders = spec.submodule_search_locations if spec and spec.submodule_search_locations else []
    return [place for folder in folders if (place := Path(folder) / "bin" / "perf_analyzer").is_file()]
