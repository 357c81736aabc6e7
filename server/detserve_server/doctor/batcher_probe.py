"""Does a Triton's batcher stall where a queue policy bounds it? Standard library alone: it runs in images.

Where a queue policy is, Triton 2.51 and later fetch no batch ahead: the batcher looks for a waiting instance
before the instance is back, sleeps for up to 500 ms, and only the next request that finds room wakes it. Two
models sleep 40 ms for each batch of up to 8, one with a policy and one without; both are asked more than they
can do.

``docker run --rm -i IMAGE python3 - < batcher_probe.py`` prints the answers a second of both as JSON. Words
after the file are the command of another tritonserver.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

BATCH, BATCH_S = 8, 0.04
LOAD_S = 2.0
#: One batch runs, 32 wait, the others are refused and ask again after a moment.
CALLERS = 64
_ASK_AGAIN_S = 0.05
_READY_S, _STOP_S = 60.0, 15.0
_POLICY = """
dynamic_batching { default_queue_policy {
  default_timeout_microseconds: 10000000 allow_timeout_override: true max_queue_size: 32 } }
"""
MODELS = {"with_policy": _POLICY, "without_policy": "dynamic_batching { }"}
_CONFIG = """
name: "NAME" backend: "python" max_batch_size: 8
input { name: "X" data_type: TYPE_FP32 dims: 1 }
output { name: "Y" data_type: TYPE_FP32 dims: 1 }
instance_group { count: 1 kind: KIND_CPU }
"""
_MODEL = f"""
import time

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        time.sleep({BATCH_S})
        tensors = [pb_utils.get_input_tensor_by_name(request, "X").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", tensor)]) for tensor in tensors]
"""
_REQUEST = json.dumps({"inputs": [{"name": "X", "shape": [1, 1], "datatype": "FP32", "data": [0]}]})


def measure(tritonserver: Sequence[str], environment: Mapping[str, str]) -> dict[str, float]:
    """Answers a second of the models ``with_policy`` and ``without_policy``, in some 10 s.

    ``tritonserver`` is the command and its first options. Raises RuntimeError with a line of its log when it
    does not start, OSError when it ends under the load.
    """
    # Triton's python backend does not take every path
    with tempfile.TemporaryDirectory(prefix="detserve-probe-", dir="/tmp") as name:
        folder, port = Path(name), _free_port()
        _write(folder / "repository")
        command = [*tritonserver, f"--model-repository={folder / 'repository'}", f"--http-port={port}"]
        command += ["--http-address=127.0.0.1", "--allow-grpc=false", "--allow-metrics=false"]
        command += ["--disable-auto-complete-config"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                command, env=dict(environment), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            _wait(process, port, folder / "log")
            return {model: _goodput_per_s(model, port) for model in MODELS}
        finally:
            _stop(process)


def _write(repository: Path) -> None:
    for name, batching in MODELS.items():
        version = repository / name / "1"
        version.mkdir(parents=True)
        (version.parent / "config.pbtxt").write_text(_CONFIG.replace("NAME", name) + batching)
        (version / "model.py").write_text(_MODEL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline_s = time.monotonic() + _READY_S
    while not _ready(port):
        if process.poll() is not None or time.monotonic() > deadline_s:
            raise RuntimeError(_cause(log.read_text(errors="replace")))
        time.sleep(0.1)


def _cause(log: str) -> str:
    """The first line that says why a model did not load, or the last one."""
    lines = [line for line in log.splitlines() if line.strip()] or ["it says nothing"]
    failed = next((line for line in lines if "failed to load" in line), lines[-1])
    return failed.partition("\\n")[0]  # where Triton writes a traceback in one line


def _ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _goodput_per_s(model: str, port: int) -> float:
    ends_s, answered = time.monotonic() + LOAD_S, [0] * CALLERS

    def ask(caller: int) -> None:  # raises OSError where the server ends
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        while time.monotonic() < ends_s:
            connection.request("POST", f"/v2/models/{model}/infer", _REQUEST)
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                time.sleep(_ASK_AGAIN_S)
            elif time.monotonic() < ends_s:
                answered[caller] += 1
        connection.close()

    with ThreadPoolExecutor(CALLERS) as threads:
        list(threads.map(ask, range(CALLERS)))
    return sum(answered) / LOAD_S


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    try:
        print(json.dumps(measure(sys.argv[1:] or ["tritonserver"], os.environ)))
    except (RuntimeError, OSError) as error:
        sys.exit(f"tritonserver does not answer: {error}")
