"""Operators that only one runtime's plugins know: named, with the export option that leaves them out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from detserve_builder.errors import BuildError
from detserve_builder.graph.branches import all_graphs

if TYPE_CHECKING:
    import onnx

# The domains of operators that ONNX Runtime has built in.
_KNOWN_DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview", "com.microsoft", "com.microsoft.nchwc"}
_LEAVE_OUT = {
    "EfficientNMS_TRT": "export without --end2end",
    "BatchedNMS_TRT": "export without --end2end",
    "BatchedNMSDynamic_TRT": "export without --end2end",
    "TRTBatchedNMS": "deploy with an ONNX Runtime configuration, not a TensorRT one",
    "grid_sampler": "deploy with an ONNX Runtime configuration at opset 16 or later",
    "MMCVDeformConv2d": "a detector without deformable convolutions is needed",
    "MMCVModulatedDeformConv2d": "a detector without deformable convolutions is needed",
}


def refuse_custom_operators(path: Path, model: onnx.ModelProto) -> None:
    """Raise :class:`BuildError` for the first operator that neither ONNX nor ONNX Runtime defines."""
    from onnx import defs

    standard = {schema.name for schema in defs.get_all_schemas_with_history()}
    for graph in all_graphs(model.graph):
        for node in graph.node:
            if node.domain in ("", "ai.onnx") and node.op_type in standard:
                continue
            if node.domain in _KNOWN_DOMAINS - {"", "ai.onnx"}:
                continue
            domain = node.domain or "the standard one, which has no such operator"
            option = _LEAVE_OUT.get(node.op_type, "export without the option that puts it in")
            raise BuildError(
                f"{path}: the operator {node.op_type} (domain {domain}) is of a plugin that ONNX Runtime "
                f"does not have; {option}"
            )
