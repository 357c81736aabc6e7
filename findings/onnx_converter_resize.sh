#!/usr/bin/env bash
# onnx's version converter makes a linear Upsample-9 or Resize-10 sample other places: half_pixel for asymmetric.
#
# Expected  onnx.version_converter.convert_version keeps what a model computes. Opset 10 knows one rule only:
#           input position = output position / scale (opset 11 calls it "asymmetric").
# Happens   the node is raised to opset 11 or newer without that attribute, so the new default "half_pixel" counts:
#           0 0.5 1 1.5 ... becomes 0 0.25 0.75 1.25 ... No warning; the checker passes both files.
#           Doubling by nearest gives the same numbers under both rules, which hides it in most networks.
# Seen      onnx 1.23.2, onnxruntime 1.32.0, Python 3.11, 2026-11-30. Reported as onnx/onnx#8480 for Resize, open then.
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
from onnx import TensorProto, helper, numpy_helper, version_converter

ROW = np.arange(4, dtype=np.float32).reshape(1, 1, 1, 4)
SCALES = numpy_helper.from_array(np.array([1, 1, 1, 2], np.float32), "scales")


def upscaling(operator, opset, mode):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 1, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 1, 8])
    node = helper.make_node(operator, ["x", "scales"], ["y"], mode=mode)
    graph = helper.make_graph([node], "upscaling", [x], [y], [SCALES])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(model):
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": ROW})[0].ravel()


moved = {}
for operator, opset in (("Upsample", 9), ("Resize", 10)):
    for mode in ("nearest", "linear"):
        before = upscaling(operator, opset, mode)
        after = version_converter.convert_version(before, 17)
        print(f"{operator}-{opset} {mode:7}  opset {opset:2}: {run(before)}  opset 17: {run(after)}")
        moved[operator, mode] = float(np.abs(run(before) - run(after)).max())

expected = {(operator, mode): 0.25 if mode == "linear" else 0 for operator, mode in moved}
raise SystemExit(0 if moved == expected else f"changed: {moved}")
PYTHON
