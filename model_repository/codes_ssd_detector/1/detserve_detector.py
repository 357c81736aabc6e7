"""Network input -> candidates, on ONNX Runtime."""

from __future__ import annotations

import onnxruntime as ort

OUTPUTS = ("boxes", "scores", "classes")


def open_session(model_path: str, threads: int) -> ort.InferenceSession:
    """Open a prepared ONNX on the CPU.

    ``run(OUTPUTS, {"images": uint8 [N,H,W,3] RGB})`` gives boxes float32 [N,K,4] (x1,y1,x2,y2 in network
    pixels), scores float32 [N,K] descending and classes int32 [N,K]. ``threads`` 0 takes every core.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A spinning pool would take the cores from picture decoding, which runs beside it.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return ort.InferenceSession(model_path, options, providers=["CPUExecutionProvider"])
