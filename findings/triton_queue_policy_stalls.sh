#!/usr/bin/env bash
# Triton's batcher leaves its only instance idle for up to half a second while its queue is full, once the queue
# has a policy.
#
# Expected  max_queue_size refuses what finds no room; what is answered a second stays what the model can do.
# Happens   any of max_queue_size, default_timeout_microseconds and allow_timeout_override turns prefetching off
#           (triton-inference-server/core#237). The batcher then looks for a waiting instance before the instance
#           is back, sleeps up to 500 ms, and only the next accepted request wakes it. While the queue is full
#           none is accepted: of 200/s that the model can do, some 20 are answered. Without the policy: 180 or
#           more. It is the same from the first second on, other than in triton-inference-server/server#8870.
# Seen      tritonserver 2.51 of nvidia-pytriton 0.7.0, Python 3.11, 2026-11-30. Read the same in the source of core
#           up to June 2026 (dynamic_batch_scheduler.cc, WaitForPayloadSlotAvailable).
# Exit      0 while it is so, 1 when it has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==1.26.4 nvidia-pytriton==0.7.0

for model in with_policy without_policy; do
    mkdir -p "$folder/models/$model/1"
    cat >"$folder/models/$model/config.pbtxt" <<CONFIG
name: "$model" backend: "python" max_batch_size: 8
input { name: "X" data_type: TYPE_FP32 dims: 1 }
output { name: "Y" data_type: TYPE_FP32 dims: 1 }
instance_group { count: 1 kind: KIND_CPU }
CONFIG
    cat >"$folder/models/$model/1/model.py" <<'MODEL'
import time

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Sleeps 40 ms for each batch of up to 8: 200 requests a second."""

    def execute(self, requests):
        time.sleep(0.04)
        tensors = [pb_utils.get_input_tensor_by_name(request, "X").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", tensor)]) for tensor in tensors]
MODEL
done
echo 'dynamic_batching { default_queue_policy { max_queue_size: 32 } }' >>"$folder/models/with_policy/config.pbtxt"
echo 'dynamic_batching { }' >>"$folder/models/without_policy/config.pbtxt"

"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import http.client
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor

folder = pathlib.Path(sys.argv[1])
site = pathlib.Path(sysconfig.get_path("purelib"))
triton = site / "pytriton/tritonserver"
shutil.copytree(triton / "backends/python", folder / "backends/python")
version = f"{sys.version_info.major}.{sys.version_info.minor}"
shutil.copy(triton / "python_backend_stubs" / version / "triton_python_backend_stub", folder / "backends/python")
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
libraries = [str(site / "nvidia_pytriton.libs"), sysconfig.get_config_var("LIBDIR")]
server = subprocess.Popen(
    [
        triton / "bin/tritonserver", f"--model-repository={folder / 'models'}", f"--http-port={port}",
        f"--backend-directory={folder / 'backends'}", "--http-address=127.0.0.1", "--allow-grpc=false",
        "--allow-metrics=false", "--disable-auto-complete-config",
    ],
    env={
        **os.environ,
        "LD_LIBRARY_PATH": ":".join(libraries),
        "PATH": f"{folder / 'venv/bin'}:{os.environ['PATH']}",
    },
    stdout=(folder / "log").open("wb"),
    stderr=subprocess.STDOUT,
)
body = json.dumps({"inputs": [{"name": "X", "shape": [1, 1], "datatype": "FP32", "data": [0]}]})


def ask(method, path, body=None, connection=None):
    connection = connection or http.client.HTTPConnection("127.0.0.1", port)
    connection.request(method, path, body)
    response = connection.getresponse()
    response.read()
    return response.status


def answered(model, ends_s):
    connection, count = http.client.HTTPConnection("127.0.0.1", port), 0
    while time.monotonic() < ends_s:
        if ask("POST", f"/v2/models/{model}/infer", body, connection) == 200:
            count += 1
        else:
            time.sleep(0.05)  # refused
    return count


try:
    for _ in range(300):
        try:
            if ask("GET", "/v2/health/ready") == 200:
                break
        except OSError:
            pass
        time.sleep(0.1)
    rates = {}
    for model in ("with_policy", "without_policy"):
        with ThreadPoolExecutor(64) as callers:
            ends_s = time.monotonic() + 5
            rates[model] = sum(callers.map(lambda _: answered(model, ends_s), range(64))) / 5
        print(f"{model}: {rates[model]:.0f} of 200 requests a second are answered")
finally:
    server.terminate()
    server.wait(60)
raise SystemExit(0 if 2 * rates["with_policy"] < rates["without_policy"] else f"changed: {rates}")
PYTHON
