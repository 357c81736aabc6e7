#!/usr/bin/env bash
# onnxscript's version converter, given an onnx.ModelProto, rewrites the nodes and keeps the old opset in the file.
#
# Expected  convert_version(model, 20) takes "ir.Model | onnx.ModelProto" and changes either in place: nodes and opset.
# Happens   of a ModelProto only graph and functions are written back, opset_import is not. GridSample gets opset 20's
#           mode "linear" under the label 18, which knows "bilinear": the checker passes it, ONNX Runtime refuses it.
#           The same model as onnx_ir.Model comes out right.
# Seen      onnxscript 0.7.2, onnx 1.23.2, onnxruntime 1.32.0, Python 3.11, 2026-11-30.
# Exit      0 while it is so, 1 when it has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnxscript==0.7.2 onnx-ir==1.1.0 onnx==1.23.2 onnxruntime==1.32.0

"$folder/venv/bin/python" - <<'PYTHON'
import onnx
import onnx_ir
import onnxruntime
from onnx import TensorProto, helper
from onnxscript import version_converter


def verdict(model):
    """The opset and the mode in the file, and what ONNX Runtime says to it."""
    onnx.checker.check_model(model, full_check=True)
    mode = next(a.s.decode() for a in model.graph.node[0].attribute if a.name == "mode")
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), quiet, providers=["CPUExecutionProvider"])
        return model.opset_import[0].version, mode, "loads"
    except Exception as error:
        print("ONNX Runtime:", str(error)[-67:].strip())
        return model.opset_import[0].version, mode, "refused"


x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])
grid = helper.make_tensor_value_info("grid", TensorProto.FLOAT, [1, 2, 2, 2])
y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 2, 2])
node = helper.make_node("GridSample", ["x", "grid"], ["y"], mode="bilinear")
graph = helper.make_graph([node], "sampling", [x, grid], [y])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)

seen = {"as it came": verdict(model)}
as_ir = onnx_ir.from_proto(model)
version_converter.convert_version(as_ir, 20)
seen["onnx_ir.Model raised to 20"] = verdict(onnx_ir.to_proto(as_ir))
version_converter.convert_version(model, 20)
seen["ModelProto raised to 20"] = verdict(model)
for what, values in seen.items():
    print(f"{what:27}", *values)

expected = [(18, "bilinear", "loads"), (20, "linear", "loads"), (18, "linear", "refused")]
raise SystemExit(0 if list(seen.values()) == expected else "changed")
PYTHON
