#!/usr/bin/env bash
# A model that calls another one (BLS) is told INTERNAL for every error of the called model, whatever its code was.
#
# Expected  a model's error of code INVALID_ARG has that code for the model that calls it, as it has for a client.
# Happens   called directly, the client gets INVALID_ARGUMENT. Called by another python model, the error's message
#           arrives, and its code() is INTERNAL: whose fault it was, or that it may be tried again, is lost.
# Seen      tritonserver 2.51 of nvidia-pytriton 0.7.0, tritonclient 2.73.0, Python 3.11, 2026-12-01.
# Exit      0 while it is so, 1 when it has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==1.26.4 nvidia-pytriton==0.7.0 'tritonclient[grpc]==2.73.0'

for model in called calling; do
    mkdir -p "$folder/models/$model/1"
    cat >"$folder/models/$model/config.pbtxt" <<CONFIG
name: "$model" backend: "python" max_batch_size: 0
input { name: "IN" data_type: TYPE_INT32 dims: 1 }
output { name: "CODE" data_type: TYPE_INT32 dims: 1 }
instance_group { kind: KIND_CPU }
CONFIG
done
cat >"$folder/models/called/1/model.py" <<'MODEL'
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Says of every request that it is not valid."""

    def execute(self, requests):
        error = pb_utils.TritonError("not a picture", pb_utils.TritonError.INVALID_ARG)
        return [pb_utils.InferenceResponse(error=error) for _ in requests]
MODEL
cat >"$folder/models/calling/1/model.py" <<'MODEL'
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Answers with the code of the error that the called model gave."""

    def execute(self, requests):
        return [pb_utils.InferenceResponse([self.code(request)]) for request in requests]

    def code(self, request):
        call = pb_utils.InferenceRequest(
            model_name="called", requested_output_names=["CODE"], inputs=request.inputs()
        )
        code = call.exec().error().code()
        name = {pb_utils.TritonError.INTERNAL: 1, pb_utils.TritonError.INVALID_ARG: 2}.get(code, 0)
        return pb_utils.Tensor("CODE", np.array([name], np.int32))
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
        f"--backend-directory={folder / 'backends'}", "--grpc-address=127.0.0.1", "--allow-http=false",
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
try:
    connection = client.InferenceServerClient(f"127.0.0.1:{port}")
    for _ in range(300):
        try:
            if connection.is_model_ready("called") and connection.is_model_ready("calling"):
                break
        except client.InferenceServerException:
            pass
        time.sleep(0.1)
    given = client.InferInput("IN", [1], "INT32")
    given.set_data_from_numpy(np.array([7], np.int32))
    try:
        connection.infer("called", [given])
        directly = "no error"
    except client.InferenceServerException as error:
        directly = error.status()
    code = int(connection.infer("calling", [given]).as_numpy("CODE")[0])
    by_a_model = {1: "INTERNAL", 2: "INVALID_ARG"}.get(code, "another")
    print(f"called by a client: {directly}; called by a model: {by_a_model}")
finally:
    server.terminate()
    server.wait(60)
seen = (directly, by_a_model)
raise SystemExit(0 if seen == ("StatusCode.INVALID_ARGUMENT", "INTERNAL") else f"changed: {seen}")
PYTHON
