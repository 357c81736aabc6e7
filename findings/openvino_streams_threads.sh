#!/usr/bin/env bash
# OpenVINO on the CPU runs a synchronous infer() in the calling thread only where the network has one stream.
#
# Expected  infer(), which waits for its result, costs as much whichever NUM_STREAMS the network was compiled with:
#           each thread of a server has its own request, and there is a stream for each.
# Happens   with one stream and one thread it is computed in the thread that calls. With more it is computed in a
#           thread of OpenVINO's, which is woken for every call and wakes the caller. Two networks of one stream
#           each do the same work without. Nothing says so.
# Seen      openvino 2026.4.1, onnx 1.23.2, Python 3.11, x86-64 with two cores, 2026-11-30.
# Exit      0 while it is so, 1 when it has changed, 2 where there is one core alone.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==1.26.4 onnx==1.23.2 openvino==2026.4.1

"$folder/venv/bin/python" - <<'PYTHON'
import os
import time

import numpy as np
import onnx
import openvino
from onnx import TensorProto, helper, numpy_helper

if len(os.sched_getaffinity(0)) < 2:
    raise SystemExit(2)
weights = np.random.default_rng(0).normal(size=(256, 256, 3, 3)).astype(np.float32)
image = np.ones((1, 256, 26, 26), np.float32)
node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, image.shape) for name in "xy")
model = helper.make_model(
    helper.make_graph([node], "network", [x], [y], [numpy_helper.from_array(weights, "w")]),
    opset_imports=[helper.make_opsetid("", 17)],
    ir_version=8,
)
onnx.checker.check_model(model, full_check=True)

core = openvino.Core()
shares = {}
for streams in (1, 2):
    settings = {"NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": streams}
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", settings)
    request = compiled.create_infer_request()
    request.infer({"x": image})
    own_s, process_s = time.thread_time(), time.process_time()
    for _ in range(100):
        request.infer({"x": image})
    shares[streams] = (time.thread_time() - own_s) / (time.process_time() - process_s)
    print(f"NUM_STREAMS {streams}: {shares[streams]:.0%} of the CPU time is the calling thread's")
raise SystemExit(0 if shares[1] > 0.9 and shares[2] < 0.5 else 1)
PYTHON
