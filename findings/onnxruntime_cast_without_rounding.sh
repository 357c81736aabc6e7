#!/usr/bin/env bash
# ONNX Runtime on the CPU: a Cast to FLOAT16 in front of a half precision layer does not round.
#
# Expected  y = Cast(Relu(Cast(x, FLOAT16)), FLOAT) is Relu of x in half precision: 2049 becomes 2048, 70000 inf, or at
#           least does so with all graph optimisations off.
# Happens   Relu has no half precision kernel on the CPU and runs in float32. The Cast to FLOAT16 and the Cast back that
#           the runtime puts in front of Relu cancel out: Relu reads x itself (optimized_model_filepath shows it). With
#           the half precision tensor as a second output one run says both: inf in front of Relu, 70000 behind it. Fed
#           with FLOAT16 directly the same layers round. So an fp16 export with a float32 input answers otherwise than
#           the same export with a float16 input, at every optimisation level.
# Seen      onnxruntime 1.32.0, onnx 1.23.2, Python 3.11, x86-64, 2026-11-30; microsoft/onnxruntime#14189 (2023) is kin.
# Exit      0 while it is so, 1 when it has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==1.26.4 onnx==1.23.2 onnxruntime==1.32.0

"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

X = np.array([2049, 0.1, 1e-9, 70000], np.float32)
with np.errstate(over="ignore"):
    HALF = X.astype(np.float16)

info = helper.make_tensor_value_info
float_x, half_x = info("x", TensorProto.FLOAT, [4]), info("half", TensorProto.FLOAT16, [4])
y = info("y", TensorProto.FLOAT, [4])
to_half = helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16)
layer = helper.make_node("Relu", ["half"], ["relu"])
to_float = helper.make_node("Cast", ["relu"], ["y"], to=TensorProto.FLOAT)


def run(nodes, inputs, outputs, feed, level):
    graph = helper.make_graph(nodes, "network", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feed)


as_seen = True
for level in (onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL):
    behind, front = run([to_half, layer, to_float], [float_x], [y, half_x], {"x": X}, level)
    (direct,) = run([layer, to_float], [half_x], [y], {"half": HALF}, level)
    print(f"{level.name}: in front of Relu {front}, behind it {behind}, fed with float16 {direct}")
    as_seen &= np.isinf(front[3]) and np.array_equal(behind, X) and np.array_equal(direct, HALF.astype(np.float32))
raise SystemExit(0 if as_seen else "changed")
PYTHON
