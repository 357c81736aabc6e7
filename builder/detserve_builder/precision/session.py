"""A model in memory -> a session on the CPU, with inner tensors as outputs where wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from detserve_builder.runtime import Runtime

if TYPE_CHECKING:
    import onnx
    import onnxruntime as ort

    from detserve_builder.steps.detserve_detector import Session


def open_session(
    model: onnx.ModelProto, *, outputs: Sequence[str] = (), threads: int = 0
) -> ort.InferenceSession:
    """Open ``model`` in ONNX Runtime; the inner tensors ``outputs`` become outputs too.

    ``threads`` 0 takes every core. Settings are those of the served detector, but for the warnings.
    """
    import onnx
    import onnxruntime as ort

    if outputs:
        probe = onnx.ModelProto()
        probe.CopyFrom(model)
        known = {output.name for output in probe.graph.output}
        probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs if name not in known)
        model = probe
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def open_served(model: onnx.ModelProto, runtime: Runtime, floats: str, *, threads: int = 0) -> Session:
    """Open ``model`` in the library that will serve it, with the served settings."""
    if runtime is Runtime.ONNXRUNTIME:
        session: Session = open_session(model, threads=threads)
        return session
    from detserve_builder.steps.detserve_detector import OpenVinoSession

    return OpenVinoSession(model.SerializeToString(), threads, floats)
