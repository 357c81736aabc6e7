#!/usr/bin/env bash
# OpenVINO on the CPU leaves out 16-bit QuantizeLinear/DequantizeLinear pairs, and with them the ReLU that they hold.
#
# Expected  Q/DQ with UINT16, zero point 0 and scale .01 rounds to .01 and clamps to 0 .. 655.35. Quantisers count on
#           it: ONNX Runtime's removes a Relu whose work the clamp does. In UINT8 OpenVINO computes the pair so.
# Happens   the pair is taken out of the network: nothing is rounded, and negative numbers go through, as if there
#           were no ReLU. INT16 with zero point -32768 fares the same. No warning.
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

X = np.array([-5, -2, -0.304, 1.234, 900], np.float32)


def network(zero_point):
    """y = DQ(Q(x + 0.5)) * 2"""
    values = {"half": np.float32(0.5), "scale": np.float32(0.01), "zero": zero_point, "two": np.float32(2)}
    nodes = [
        helper.make_node("Add", ["x", "half"], ["sum"]),
        helper.make_node("QuantizeLinear", ["sum", "scale", "zero"], ["quantised"]),
        helper.make_node("DequantizeLinear", ["quantised", "scale", "zero"], ["back"]),
        helper.make_node("Mul", ["back", "two"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [X.size]) for name in "xy")
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "network", [x], [y], weights),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


core = openvino.Core()
differs = {}
for zero_point in (np.uint8(0), np.uint16(0), np.int16(-32768)):
    model = network(zero_point)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    reference = session.run(None, {"x": X})[0]
    compiled = core.compile_model(core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    result = compiled({"x": X})[0]
    rows = {"ONNX Runtime": reference, "OpenVINO": result}
    print(zero_point.dtype, *(f"{name} {row.astype(float).round(3)} " for name, row in rows.items()))
    differs[str(zero_point.dtype)] = bool(reference.min() == 0 and result.min() < -8)
raise SystemExit(0 if differs == {"uint8": False, "uint16": True, "int16": True} else f"changed: {differs}")
PYTHON
