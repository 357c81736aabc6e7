"""The backend for the server's process under sanitizers: memory that is gone, threads that race."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from detserve_server.in_process.compiling import backend_files
from detserve_server.triton.embedded import embedded_server
from tests.live.calling_repository import (
    ANSWER,
    DROP,
    KEEP,
    RAISE,
    REFUSE,
    ask,
    asked,
    write_caller,
    write_detector,
)
from tests.needs import needs_compiler

pytestmark = [needs_compiler, pytest.mark.slow]

#: A library of the server allocates while it holds the lock of the locale; a sanitizer that starts only then
#: spoils the lock, and the server hangs. So it starts first.
_FIRST = """
#include <stdlib.h>
__attribute__((constructor)) static void first(void) { void *volatile p = malloc(1); free(p); }
"""
_CALLS = 600
_ORDERS = {
    0: RAISE,
    1: KEEP,
    2: REFUSE,
    3: REFUSE,
    4: DROP,
    5: DROP,
}  # of forty calls; the others are answered


@pytest.mark.parametrize(
    ("sanitizer", "library", "options"),
    [
        ("address", "libasan.so", {"ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=1"}),
        ("thread", "libtsan.so", {"TSAN_OPTIONS": "ignore_noninstrumented_modules=1"}),
    ],
)
def test_a_load_of_calls_is_clean(
    sanitizer: str,
    library: str,
    options: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiler = shlex.split(os.environ.get("CXX") or "c++")
    runtime = _output(*compiler, f"-print-file-name={library}")
    if not Path(runtime).is_absolute():
        pytest.skip(f"{compiler[0]} has no {library} to load before the server")
    first = tmp_path / "first.so"
    (tmp_path / "first.c").write_text(_FIRST)
    _output(
        *(*compiler, "-x", "c", "-shared", "-fPIC", "-Wl,-z,initfirst"),
        str(tmp_path / "first.c"),
        "-o",
        str(first),
    )
    monkeypatch.setenv("CXX", shlex.join([*compiler, f"-fsanitize={sanitizer}", "-g"]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    backend_files()  # compiled before the compiler itself would run under the sanitizer
    repository = tmp_path / "repository"
    write_caller(repository)
    write_detector(repository)
    for name, value in ({"LD_PRELOAD": f"{Path(runtime).resolve()}:{first}"} | options).items():
        monkeypatch.setenv(name, value)
    if subprocess.run([shutil.which("true") or "true"], capture_output=True, check=False).stderr:
        pytest.skip(f"{library} cannot be loaded before a program here")
    log = tmp_path / "log"
    with embedded_server(repository, log_file=log) as running:
        assert library.removesuffix(".so") in Path(f"/proc/{running.pid}/maps").read_text()
        with grpcclient.InferenceServerClient(running.grpc_url.removeprefix("grpc://")) as connection:

            def call(number: int) -> str:
                order = _ORDERS.get(number % 40, ANSWER)
                try:
                    boxes = ask(connection, asked(number, order=order, sleep_ms=number % 3))
                except InferenceServerException as error:
                    return str(error.message())
                return "answered" if boxes[0, 0] == number else f"{boxes} for {number}"

            with ThreadPoolExecutor(32) as pool:
                said = Counter(pool.map(call, range(_CALLS)))
    text = log.read_text()
    assert "Sanitizer" not in text, text[text.index("Sanitizer") :][:4000]
    assert said.total() == _CALLS
    assert said["answered"] > _CALLS / 4
    assert not [text for text in said if " for " in text]


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
