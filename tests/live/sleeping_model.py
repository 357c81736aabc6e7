"""A tiny model with the contract's tensors: it sleeps, and leaks if told to. It takes hardly any CPU time."""

from __future__ import annotations

from pathlib import Path

NAME = "sleeper"
_CONFIG = """
name: "sleeper" backend: "python" max_batch_size: 1
input { name: "IMAGE" data_type: TYPE_STRING dims: 1 }
output { name: "num_detections" data_type: TYPE_INT32 dims: 1 }
output { name: "boxes" data_type: TYPE_FP32 dims: [1, 4] }
output { name: "scores" data_type: TYPE_FP32 dims: 1 }
output { name: "classes" data_type: TYPE_INT32 dims: 1 }
instance_group { count: INSTANCES kind: KIND_CPU }
dynamic_batching { default_queue_policy { max_queue_size: 200 } }
"""
_MODEL = """
import time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.random = np.random.default_rng()
        self.kept, self.leaked_s = [], 0.0

    def execute(self, requests):
        return [self.answer() for _ in requests]

    def answer(self):
        time.sleep(self.random.gamma(4, SERVICE_S / 4))
        if LEAKS and time.monotonic() > self.leaked_s + 0.05:
            self.leaked_s = time.monotonic()
            self.kept.append(np.ones(1_000_000, np.uint8))
        return pb_utils.InferenceResponse(output_tensors=[
            pb_utils.Tensor("num_detections", np.zeros((1, 1), np.int32)),
            pb_utils.Tensor("boxes", np.zeros((1, 1, 4), np.float32)),
            pb_utils.Tensor("scores", np.zeros((1, 1), np.float32)),
            pb_utils.Tensor("classes", np.full((1, 1), -1, np.int32)),
        ])
"""


def write_sleeper(folder: Path, *, service_s: float, instances: int = 1, leaks: bool = False) -> Path:
    """Each request sleeps ``service_s`` on average; a leak is 1 MB every 50 ms while requests come."""
    version = folder / NAME / "1"
    version.mkdir(parents=True)
    (folder / NAME / "config.pbtxt").write_text(_CONFIG.replace("INSTANCES", str(instances)))
    text = _MODEL.replace("SERVICE_S", str(service_s)).replace("LEAKS", str(leaks))
    (version / "model.py").write_text(text)
    return folder
