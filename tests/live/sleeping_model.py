"""A tiny pipeline with the contract's tensors: its threads sleep, and leak if told to."""

from __future__ import annotations

import json
from pathlib import Path

from detserve_client import Card
from detserve_core.contract import CARD_PARAMETER

NAME = "sleeper_pipeline"
_CONFIG = """
name: "sleeper_pipeline" backend: "python" max_batch_size: 1
input { name: "IMAGE" data_type: TYPE_STRING dims: 1 }
output { name: "num_detections" data_type: TYPE_INT32 dims: 1 }
output { name: "boxes" data_type: TYPE_FP32 dims: [1, 4] }
output { name: "scores" data_type: TYPE_FP32 dims: 1 }
output { name: "classes" data_type: TYPE_INT32 dims: 1 }
instance_group { count: 1 kind: KIND_CPU }
dynamic_batching { default_queue_policy { max_queue_size: 200 } }
"""
_MODEL = """
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        threads = len(os.sched_getaffinity(0))
        self.pool, self.free = ThreadPoolExecutor(threads), threading.Semaphore(threads)
        self.random = np.random.default_rng(1)
        self.kept, self.leaked_s = [], 0.0

    def execute(self, requests):
        for request in requests:
            self.free.acquire()
            duration_s = self.random.gamma(4, SERVICE_S / 4)
            self.pool.submit(self.answer, request.get_response_sender(), duration_s)

    def answer(self, sender, duration_s):
        time.sleep(duration_s)
        if LEAKS and time.monotonic() > self.leaked_s + 0.05:
            self.leaked_s = time.monotonic()
            self.kept.append(np.ones(1_000_000, np.uint8))
        response = pb_utils.InferenceResponse(output_tensors=[
            pb_utils.Tensor("num_detections", np.zeros((1, 1), np.int32)),
            pb_utils.Tensor("boxes", np.zeros((1, 1, 4), np.float32)),
            pb_utils.Tensor("scores", np.zeros((1, 1), np.float32)),
            pb_utils.Tensor("classes", np.full((1, 1), -1, np.int32)),
        ])
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        self.free.release()
"""


def _card_parameter() -> str:
    card = Card.model_validate(
        {
            "name": NAME,
            "family": "yolox",
            "input_wh": (64, 64),
            "preprocess": {"resize": "stretch"},
            "labels": ["thing"],
            "thresholds": {"max_detections": 1},
        }
    )
    text = json.dumps(card.to_json())
    return f'parameters {{ key: "{CARD_PARAMETER}" value {{ string_value: {text} }} }}'


def write_sleeper(folder: Path, *, service_s: float, leaks: bool = False) -> Path:
    """As many threads as cores, each sleeping ``service_s`` a request on average; a leak is 1 MB in 50 ms."""
    version = folder / NAME / "1"
    version.mkdir(parents=True)
    (folder / NAME / "config.pbtxt").write_text(_CONFIG + _card_parameter())
    text = _MODEL.replace("SERVICE_S", str(service_s)).replace("LEAKS", str(leaks))
    (version / "model.py").write_text(text)
    return folder
