"""Where python models run, and the compiling of the backend for the server's process."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from detserve_server.doctor.checks import check_place
from detserve_server.errors import BackendNotCompiled
from detserve_server.in_process import compiling
from detserve_server.in_process.choice import Choice, choose, why_in_processes_of_their_own
from detserve_server.triton.repository import ModelOutline, read_repository
from tests.needs import needs_compiler

COMMITTED = Path(__file__).parents[3] / "model_repository"
PIPELINE = ModelOutline("a_pipeline", "python", 8, process="server", max_picture_pixels=50_000_000)
ENSEMBLE = ModelOutline("a", "", 8, steps=("a_pipeline",))


def test_the_committed_pipelines_run_within_the_server() -> None:
    assert why_in_processes_of_their_own(read_repository(COMMITTED)) is None


@pytest.mark.parametrize(
    ("models", "reason"),
    [
        ([ENSEMBLE], "there is no python model"),
        ([PIPELINE, ModelOutline("crop", "python")], "crop was not built to run within the server's"),
        ([replace(PIPELINE, process="own")], "a_pipeline was not built to run within the server's"),
        ([replace(PIPELINE, instances=2)], "a_pipeline has 2 instances"),
        (
            [PIPELINE, replace(PIPELINE, max_picture_pixels=1)],
            "the models' cards differ in max_picture_pixels",
        ),
    ],
)
def test_one_model_that_may_not_keeps_all_out(models: list[ModelOutline], reason: str) -> None:
    assert choose(models) == Choice([], reason)
    assert str(choose(models)) == f"in their own processes: {reason}"


def test_without_a_compiler_the_models_run_on_and_the_doctor_says_how_to_mend_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CXX", "/nowhere/c++")
    where = choose([PIPELINE, ENSEMBLE])
    assert where == Choice([], "there is no C++ compiler; install g++")
    check = check_place(where)
    assert (check.fix, check.stops) == ("install g++", False)
    assert check.found == "run in their own processes: there is no C++ compiler"


@needs_compiler
def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "CXX", str(_compiler(tmp_path, "echo 'backend.cpp:1:1: error: no such thing' >&2; exit 1"))
    )
    with pytest.raises(BackendNotCompiled, match=r"failed: backend.cpp:1:1: error: no such thing$"):
        compiling.backend_files(tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@needs_compiler
def test_a_compiler_that_does_not_end_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", str(_compiler(tmp_path, "exec sleep 60")))
    monkeypatch.setattr(compiling, "_COMPILE_TIMEOUT_S", 0.2)
    with pytest.raises(BackendNotCompiled, match=r"took more than 0\.2 s$"):
        compiling.backend_files(tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@needs_compiler
def test_it_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = tmp_path / "calls"
    script = f'echo called >> {calls}; while [ "$1" != -o ]; do shift; done; touch "$2"'
    monkeypatch.setenv("CXX", str(_compiler(tmp_path, script)))
    first, second = (compiling.backend_files(tmp_path / "cache") for _ in range(2))
    assert first == second
    assert [path.name for path in first] == [
        "libtriton_python.so",
        "model_loading.py",
        "triton_python_backend_utils.py",
    ]
    assert all(path.is_file() for path in first)
    assert calls.read_text().count("called") == 1


@needs_compiler
def test_a_cache_that_cannot_be_made_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(BackendNotCompiled, match="there is no cache to compile it into"):
        compiling.backend_files(tmp_path / "cache")

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert choose([PIPELINE]).why_not.endswith("set XDG_CACHE_HOME to a folder that can be written)")


@needs_compiler
def test_a_library_that_others_could_have_written_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", str(_compiler(tmp_path, 'while [ "$1" != -o ]; do shift; done; touch "$2"')))
    library = compiling.backend_files(tmp_path / "cache")[0]
    library.parent.chmod(0o777)
    with pytest.raises(BackendNotCompiled, match=r"others can write .*; remove it$"):
        compiling.backend_files(tmp_path / "cache")


def _compiler(folder: Path, script: str) -> Path:
    program = folder / "c++"
    program.write_text(f"#!/bin/sh\n{script}\n")
    os.chmod(program, 0o755)  # noqa: PTH101, S103
    return program
