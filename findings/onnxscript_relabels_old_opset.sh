#!/usr/bin/env bash
# onnxscript's version converter gives a model older than opset 18 the new label and leaves its nodes as they are.
#
# Expected  onnxscript.version_converter.convert_version(model, 18) converts, or says that it cannot. The text of its
#           pass: "If the conversion is not supported, it falls back to the onnx C API to convert the model".
# Happens   it holds adapters from opset 18 on only and does not look where the model comes from. A Softmax-11 over the
#           axes from 1 on is stamped opset 18, where the same node is a softmax along axis 1: other numbers, no
#           exception, no warning, and the checker passes it. A ReduceMax-13 becomes a file that does not load.
#           Only fallback=True falls back, and is right; the default is None.
# Seen      onnxscript 0.7.2, onnx 1.23.2, onnxruntime 1.32.0, Python 3.11, 2026-11-30.
# Exit      0 while it is so, 1 when it has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnxscript==0.7.2 onnx-ir==1.1.0 onnx==1.23.2 onnxruntime==1.32.0

"$folder/venv/bin/python" - <<'PYTHON'
import logging

import numpy as np
import onnx
import onnx_ir
import onnxruntime
from onnx import TensorProto, helper
from onnxscript import version_converter

logging.basicConfig(level=logging.WARNING)  # a warning of the converter would be printed
X = np.arange(6, dtype=np.float32).reshape(1, 2, 3)


def network(operator, opset, shape, **attributes):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"], **attributes)], "network", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def converted(model, **options):
    model = onnx_ir.from_proto(model)
    version_converter.convert_version(model, 18, **options)
    return onnx_ir.to_proto(model)


def run(model):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": X})[0].ravel()


softmax = network("Softmax", 11, [1, 2, 3], axis=1)
raised, fallen_back = converted(softmax), converted(softmax, fallback=True)
onnx.checker.check_model(raised, full_check=True)
print("Softmax opset 11          ", run(softmax))
print("raised to 18              ", run(raised), "label:", raised.opset_import[0].version)
print("raised, fallback=True     ", run(fallen_back))
try:
    run(converted(network("ReduceMax", 13, [1, 3], axes=[1], keepdims=0)))
    refused = False
except Exception as error:
    print("ReduceMax-13 raised to 18 ", str(error)[-60:])
    refused = "Unrecognized attribute: axes" in str(error)

same = np.allclose(run(softmax), run(fallen_back))
other = raised.opset_import[0].version == 18 and np.allclose(run(raised)[:3], 0.0474259)
raise SystemExit(0 if same and other and refused else "changed")
PYTHON
