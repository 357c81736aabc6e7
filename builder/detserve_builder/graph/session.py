"""A model in memory -> a session on the CPU, with inner tensors as outputs where wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from detserve_builder.graph.running import with_outputs
from detserve_builder.steps.detserve_detector import open_onnxruntime

if TYPE_CHECKING:
    import onnx
    import onnxruntime as ort


def open_session(model: onnx.ModelProto, *, outputs: Sequence[str] = ()) -> ort.InferenceSession:
    """Open ``model`` in ONNX Runtime on every core; the inner tensors ``outputs`` become outputs too."""
    probe = with_outputs(model, outputs) if outputs else model
    session: ort.InferenceSession = open_onnxruntime(probe.SerializeToString(), threads=0)
    return session
