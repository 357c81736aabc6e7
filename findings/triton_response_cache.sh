#!/usr/bin/env bash
# Triton's response cache answers a request with other parameters from the answer to the first one.
#
# Expected  two requests that differ in a request parameter are two requests: a model may read it.
# Happens   the cache's key is the model, its version and the input tensors. The second request gets the first
#           one's answer, without a word.
# Seen      tritonserver 2.51 of nvidia-pytriton 0.7.0, local cache, tritonclient 2.73.0, Python 3.11, 2026-11-30.
# Exit      0 while it is so, 1 when it has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==1.26.4 nvidia-pytriton==0.7.0 'tritonclient[grpc]==2.73.0'

mkdir -p "$folder/models/threshold/1"
cat >"$folder/models/threshold/config.pbtxt" <<'CONFIG'
name: "threshold" backend: "python" max_batch_size: 0
input { name: "IMAGE" data_type: TYPE_INT32 dims: 1 }
output { name: "THRESHOLD" data_type: TYPE_STRING dims: 1 }
instance_group { kind: KIND_CPU }
response_cache { enable: true }
CONFIG
cat >"$folder/models/threshold/1/model.py" <<'MODEL'
import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Answers with the parameter of the request."""

    def execute(self, requests):
        said = [json.loads(request.parameters())["score_threshold"] for request in requests]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("THRESHOLD", np.array([text.encode()], object))])
            for text in said
        ]
MODEL

"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import sysconfig
import time

import numpy as np
import tritonclient.grpc as client

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
        triton / "bin/tritonserver", f"--model-repository={folder / 'models'}", f"--grpc-port={port}",
        f"--backend-directory={folder / 'backends'}", f"--cache-directory={triton / 'caches'}",
        "--cache-config=local,size=1048576", "--grpc-address=127.0.0.1", "--allow-http=false", "--allow-metrics=false",
        "--disable-auto-complete-config",
    ],
    env={
        **os.environ,
        "LD_LIBRARY_PATH": ":".join(libraries),
        "PATH": f"{folder / 'venv/bin'}:{os.environ['PATH']}",
    },
    stdout=(folder / "log").open("wb"),
    stderr=subprocess.STDOUT,
)
try:
    connection = client.InferenceServerClient(f"127.0.0.1:{port}")
    for _ in range(300):
        try:
            if connection.is_model_ready("threshold"):
                break
        except client.InferenceServerException:
            pass
        time.sleep(0.1)
    image = client.InferInput("IMAGE", [1], "INT32")
    image.set_data_from_numpy(np.array([7], np.int32))
    answers = {}
    for threshold in ("0.1", "0.9"):
        answer = connection.infer("threshold", [image], parameters={"score_threshold": threshold})
        answers[threshold] = answer.as_numpy("THRESHOLD")[0].decode()
        print(f"asked for {threshold}, the answer is that of {answers[threshold]}")
finally:
    server.terminate()
    server.wait(60)
raise SystemExit(0 if answers == {"0.1": "0.1", "0.9": "0.1"} else f"changed: {answers}")
PYTHON
