#!/usr/bin/env bash
# ONNX GraphSurgeon's import and export drop the model's metadata, where exporters write class names and input size.
#
# Expected  export_onnx(import_onnx(model)) of an untouched graph is the same model: the producer, the IR version and
#           the graph's doc string do come back.
# Happens   metadata_props (Ultralytics writes names, imgsz, stride and task there), model_version, domain, the model's
#           and every node's doc_string and every node's metadata_props (torch's exporter writes its stack traces
#           there) are gone. No warning.
# Seen      onnx-graphsurgeon 0.6.1, onnx 1.23.2, Python 3.11, 2026-11-30.
# Exit      0 while it is so, 1 when it has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==1.26.4 onnx==1.23.2 onnx-graphsurgeon==0.6.1

"$folder/venv/bin/python" - <<'PYTHON'
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper

x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])
y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])
node = helper.make_node("Relu", ["x"], ["y"], doc_string="node's text")
node.metadata_props.add(key="stack_trace", value="model.py:7")
graph = helper.make_graph([node], "graph", [x], [y], doc_string="graph's text")
model = helper.make_model(
    graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="exporter", producer_version="1.2",
    domain="example", model_version=7, doc_string="model's text",
)
helper.set_model_props(model, {"names": "{0: 'cat', 1: 'dog'}", "imgsz": "[640, 640]", "task": "detect"})
onnx.checker.check_model(model, full_check=True)


def facts(model):
    node = model.graph.node[0]
    return {
        "ir_version": model.ir_version,
        "producer_name": model.producer_name,
        "producer_version": model.producer_version,
        "graph.doc_string": model.graph.doc_string,
        "metadata_props": {p.key: p.value for p in model.metadata_props},
        "domain": model.domain,
        "model_version": model.model_version,
        "doc_string": model.doc_string,
        "node.doc_string": node.doc_string,
        "node.metadata_props": {p.key: p.value for p in node.metadata_props},
    }


before, after = facts(model), facts(gs.export_onnx(gs.import_onnx(model)))
for name in before:
    print(f"{name:20} {before[name]!r:75} -> {after[name]!r}")

lost = {name for name in before if not after[name]}
kept = {name for name in before if before[name] == after[name]}
as_seen = kept == {"ir_version", "producer_name", "producer_version", "graph.doc_string"} and kept | lost == set(before)
raise SystemExit(0 if as_seen else f"changed: lost {sorted(lost)}")
PYTHON
