#!/usr/bin/env bash
# OpenVINO multiplies QLinearConv's weight scales along the input channels instead of the output channels.
#
# Expected  QLinearConv's w_scale with one entry an output channel (what quantize_static(quant_format=QOperator,
#           per_channel=True) writes) scales filter 0 by entry 0, filter 1 by entry 1.
# Happens   as many input as output channels: entry i scales input channel i of every filter, other numbers without a
#           warning. Another number of input channels: the network is refused as not convertible, so only the square
#           layers come through to be wrong. One scale for all is right.
# Seen      openvino 2026.4.1, onnxruntime 1.32.0, onnx 1.23.2, Python 3.11, x86-64, 2026-11-30; f32 was asked for.
# Exit      0 while it is so, 1 when it has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==1.26.4 onnx==1.23.2 onnxruntime==1.32.0 openvino==2026.4.1

"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper

FILTERS = np.array([[1, 2], [3, 4]], np.int8).reshape(2, 2, 1, 1)
X = np.array([10, 20], np.uint8).reshape(1, 2, 1, 1)


def network(filters, w_scale):
    values = {
        "x_scale": np.float32(1),
        "x_zero": np.uint8(0),
        "w": filters,
        "w_scale": w_scale,
        "w_zero": np.zeros_like(w_scale, np.int8),
        "y_scale": np.float32(0.1),
        "y_zero": np.uint8(0),
    }
    x = helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 2, 1, 1])
    y = helper.make_tensor_value_info("y", TensorProto.UINT8, [1, len(filters), 1, 1])
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    graph = helper.make_graph([helper.make_node("QLinearConv", ["x", *values], ["y"])], "network", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def both(model):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    reference = session.run(None, {"x": X})[0].ravel().tolist()
    core = openvino.Core()
    try:
        compiled = core.compile_model(core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return reference, compiled({"x": X})[0].ravel().tolist()
    except RuntimeError:
        return reference, "refused"


wide = np.concatenate([FILTERS, FILTERS])
seen = {
    "one scale, 2 filters of 2 channels": both(network(FILTERS, np.float32(0.1))),
    "2 scales, 2 filters of 2 channels": both(network(FILTERS, np.array([0.1, 0.2], np.float32))),
    "4 scales, 4 filters of 2 channels": both(network(wide, np.array([0.1, 0.2, 0.1, 0.2], np.float32))),
}
for what, (reference, result) in seen.items():
    print(f"{what:35} ONNX Runtime {reference}, OpenVINO {result}")
# 10*(10*1*.1 + 20*2*.1) = 50 and 10*(10*3*.2 + 20*4*.2) = 220; along the input channels 90 and 190
expected = [([50, 110], [50, 110]), ([50, 220], [90, 190]), ([50, 220, 50, 220], "refused")]
raise SystemExit(0 if list(seen.values()) == expected else "changed")
PYTHON
