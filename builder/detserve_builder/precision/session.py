"""A model in memory -> a session on the CPU, with inner tensors as outputs where wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from detserve_builder.steps.detserve_detector import open_onnxruntime

if TYPE_CHECKING:
    import onnx
    import onnxruntime as ort


def open_session(model: onnx.ModelProto, *, outputs: Sequence[str] = ()) -> ort.InferenceSession:
    """Open ``model`` in ONNX Runtime on every core; the inner tensors ``outputs`` become outputs too."""
    import onnx

    if outputs:
        probe = onnx.ModelProto()
        probe.CopyFrom(model)
        known = {output.name for output in probe.graph.output}
        probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs if name not in known)
        model = probe
    session: ort.InferenceSession = open_onnxruntime(model.SerializeToString(), threads=0)
    return session
