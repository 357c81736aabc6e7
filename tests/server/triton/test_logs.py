"""Logs of real starts that failed (tritonserver 2.51) and the sentence a user reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from detserve_server.triton.logs import ServerLog, cause_of_death, known_cause, nothing_in_flight

LOGS = Path(__file__).parent / "logs"

CAUSES = {
    "dtype_mismatch": "in ensemble e, ensemble tensor mid: inconsistent data type: TYPE_STRING is inferred "
    "from model first while TYPE_FP32 is inferred from model second",
    "import_error": "model 'first' did not load: ModuleNotFoundError: No module named 'nonesuch'",
    "initialize_raises": "model 'first' did not load: RuntimeError: no such weights",
    "missing_step": "ensemble e contains models that are not available or ambiguous: second",
    "multiline_message": "model 'first' did not load: ValueError: line one: \"q\" line two",
    "no_backend": "model 'first' did not load: the embedded server has no backend 'onnxruntime'; "
    "build the model with --target embedded, or serve it with docker-compose.yml",
    "no_libpython": "the shared library libpython3.12.so.1.0 is missing on this machine",
    "no_model_file": "a Python model did not load: Python model file not found in "
    "'/srv/models/first/1/model.py'",
    "no_version_folder": "model 'e' did not load: at least one version must be available under the version "
    "policy of model 'e'",
    "numpy_raises": "model 'first' did not load: FileNotFoundError: [Errno 2] No such file or directory: "
    "'/nonexistent/file.npy'",
    "port_grpc": "port 43389 for gRPC is already in use",
    "port_http": "port 43389 for HTTP is already in use",
    "port_metrics": "port 43389 for metrics is already in use",
    "shm_full": "model 'second' did not load: shared memory is full; "
    "enlarge /dev/shm (docker run --shm-size)",
    "stub_exits": "model 'first' did not load: its Python process ended while loading it",
    "syntax_error": "model 'first' did not load: SyntaxError: invalid syntax (model.py, line 1)",
    "warmup_file_missing": "model 'first' did not load: failed to open text file for read "
    "/srv/models/first/warmup/pic: No such file or directory",
    "warmup_raises": "model 'first' failed at its warm-up request: ValueError: a bug in execute",
    "wrong_name": "Poll failed for model directory 'first': unexpected directory name 'first' for model "
    "'other', directory name must equal model name",
}


def test_every_recorded_log_has_its_sentence() -> None:
    assert {path.stem for path in LOGS.glob("*.log")} == set(CAUSES)


@pytest.mark.parametrize(("name", "sentence"), CAUSES.items())
def test_cause(name: str, sentence: str) -> None:
    log = (LOGS / f"{name}.log").read_text()
    assert cause_of_death(log, "ended with status 1") == sentence


@pytest.mark.parametrize(
    ("log", "last"),
    [
        ("", "nothing"),
        ("Signal (15) received.\n", "Signal (15) received."),
        (
            '2026-11-24T11:00:02Z E 7911 server.cc:1] "something new went wrong."\nbye',
            "something new went wrong",
        ),
    ],
)
def test_an_unknown_end_gives_the_last_words(log: str, last: str) -> None:
    assert known_cause(log) is None
    assert (
        cause_of_death(log, "was ended by SIGKILL")
        == f"the server was ended by SIGKILL and said last: {last}"
    )


def test_a_healthy_start_names_no_cause() -> None:
    """Every machine without a GPU logs these errors and serves."""
    log = (
        '2026-11-24T10:54:18Z E 4670 server.cc:241] "CudaDriverHelper has not been initialized."\n'
        '2026-11-24T10:54:18Z E 4670 ensemble_scheduler.cc:1468] "unable to create stream for e: '
        'CUDA driver version is insufficient for CUDA runtime version"\n'
    )
    assert known_cause(log) is None


def test_an_earlier_run_in_the_same_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "triton.log"
    path.write_bytes((LOGS / "port_http.log").read_bytes())
    log = ServerLog(path, path.stat().st_size)
    with path.open("a") as file:
        file.write("a new run\n")
    assert log.text() == "a new run\n"


def test_a_server_says_when_nothing_is_in_flight(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert not nothing_in_flight(log), "removed while it served"
    log.write_text(
        'I 7 server.cc:321] "Timeout 9: Found 1 model versions that have in-flight inferences"\n' * 99
    )
    assert not nothing_in_flight(log)
    with log.open("a") as more:
        more.write('I 7 server.cc:321] "Timeout 8: Found 0 model versions that have in-flight inferences"\n')
    assert nothing_in_flight(log)
