"""Python models that call others (BLS), and detectors that answer with what their pictures are.

A picture's pixels say its number, so that an answer that belongs to another is seen.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient
from numpy.typing import NDArray

#: What a detector does with a batch that has a picture of this order.
ANSWER, REFUSE, RAISE, DROP, KEEP = range(5)
REFUSAL = "the detector is full"

_CALLER_CONFIG = """
name: "{name}" backend: "python" max_batch_size: 0
input {{ name: "ASKED" data_type: TYPE_STRING dims: 1 }}
output {{ name: "boxes" data_type: TYPE_FP32 dims: [-1, 4] }}
instance_group {{ kind: KIND_CPU count: 1 }}
parameters {{ key: "process" value {{ string_value: "{process}" }} }}
"""
_DETECTOR_CONFIG = """
name: "{name}" backend: "python" max_batch_size: 8
input {{ name: "images" data_type: TYPE_UINT8 dims: [-1, 8, 3] }}
output {{ name: "boxes" data_type: TYPE_FP32 dims: 4 }}
output {{ name: "classes" data_type: TYPE_INT32 dims: 1 }}
instance_group {{ kind: KIND_CPU count: 1 }}
parameters {{ key: "process" value {{ string_value: "{process}" }} }}
dynamic_batching {{ {batching} }}
"""
_ENSEMBLE_CONFIG = """
name: "ensemble" platform: "ensemble" max_batch_size: 8
input { name: "images" data_type: TYPE_UINT8 dims: [-1, 8, 3] }
output { name: "boxes" data_type: TYPE_FP32 dims: 4 }
ensemble_scheduling { step {
  model_name: "detector" model_version: -1
  input_map { key: "images" value: "images" } output_map { key: "boxes" value: "boxes" }
} }
"""
_CALLER = """
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils


def images(numbers, sleep_ms, order, height):
    made = np.zeros((len(numbers), height, 8, 3), np.uint8)
    for image, number in zip(made, numbers):
        image[:] = number % 251
        image.reshape(-1)[:12].view(np.int32)[:] = number, sleep_ms, order
    return made


class TritonPythonModel:
    def initialize(self, args):
        self.pool, self.cancelled = ThreadPoolExecutor(THREADS), 0
        # On Triton's python backend this now and then ends the server (2.51).
        self.at_start = self.readiness("detector") if hasattr(pb_utils, "WITHIN_SERVER") else ""

    def readiness(self, model):
        try:
            return str(pb_utils.is_model_ready(model_name=model))
        except pb_utils.TritonModelException as error:
            return str(error)

    def execute(self, requests):
        for request in requests:
            asked = json.loads(pb_utils.get_input_tensor_by_name(request, "ASKED").as_numpy()[0])
            if asked.get("within_execute"):
                self.work(request, asked)
            else:
                self.pool.submit(self.work, request, asked)

    def work(self, request, asked):
        sender = request.get_response_sender()
        try:
            boxes, error = self.answer(request, sender, asked)
        except Exception as raised:
            boxes, error = None, pb_utils.TritonError("raised " + repr(raised))
        tensors = [] if error else [pb_utils.Tensor("boxes", boxes)]
        response = pb_utils.InferenceResponse(output_tensors=tensors, error=error)
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def answer(self, request, sender, asked):
        if "ready" in asked:
            return None, pb_utils.TritonError(self.at_start + "; " + self.readiness(asked["ready"]))
        if "until_cancelled_s" in asked:
            deadline_s = time.monotonic() + asked["until_cancelled_s"]
            while not (request.is_cancelled() and sender.is_cancelled()):
                if time.monotonic() > deadline_s:
                    return None, pb_utils.TritonError("nobody cancelled")
                time.sleep(0.01)
            self.cancelled += 1
            return None, pb_utils.TritonError("cancelled", pb_utils.TritonError.CANCELLED)
        if "cancelled" in asked:
            return np.full((1, 4), self.cancelled, np.float32), None
        if "relay" in asked:
            told = np.array([json.dumps(asked["relay"]).encode()], np.object_)
            return self.ask("another_caller", pb_utils.Tensor("ASKED", told), ["boxes"], 0)
        return self.call(asked)

    def call(self, asked):
        pictures = images(asked["numbers"], asked["sleep_ms"], asked["order"], asked["height"])
        pictures = pictures.astype(asked["dtype"])
        if asked["mirrored"]:  # in memory; the values stay where they are
            pictures = np.ascontiguousarray(pictures[:, ::-1])[:, ::-1]
        tensor = pb_utils.Tensor(asked["input"], pictures)
        answer = self.ask(asked["model"], tensor, asked["outputs"], asked["timeout_us"])
        pictures[:] = 255  # they are ours again
        return answer

    def ask(self, model, tensor, outputs, timeout_us):
        response = pb_utils.InferenceRequest(
            model_name=model, requested_output_names=outputs, inputs=[tensor], timeout=timeout_us
        ).exec()
        if response.has_error():
            error = response.error()
            return None, pb_utils.TritonError(error.message(), error.code())
        tensor = pb_utils.get_output_tensor_by_name(response, "boxes")
        if tensor is None:
            return np.full((1, 4), -1, np.float32), None
        boxes = tensor.as_numpy()
        del response, tensor
        boxes += 0  # the memory is the array's own
        return boxes, None

    def finalize(self):
        self.pool.shutdown()
        asked = dict(numbers=[1], sleep_ms=0, order=0, height=8, model="detector", outputs=["boxes"])
        asked.update(dtype="uint8", timeout_us=0, mirrored=False, input="images")
        _, error = self.call(asked)
        Path("FINALIZED").write_text(error.message() if error else "answered")
"""
_DETECTOR = """
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.pool, self.spoilt = ThreadPoolExecutor(1), False

    def execute(self, requests):
        tensors = [pb_utils.get_input_tensor_by_name(request, "images") for request in requests]
        batch = [(request, tensor.as_numpy()) for request, tensor in zip(requests, tensors)]
        orders = [images.reshape(len(images), -1)[:, :12].copy().view(np.int32) for _, images in batch]
        if any((order[:, 2] == 2).any() for order in orders):
            raise LookupError("nothing of the kind")
        time.sleep(max(order[:, 1].max() for order in orders) / 1000)
        size = sum(len(images) for _, images in batch)
        while batch:
            self.pool.submit(self.answer, *batch.pop(0), orders.pop(0), size)

    def answer(self, request, images, orders, size):
        sender = request.get_response_sender()
        if (orders[:, 2] == 1).any():
            error = pb_utils.TritonError("REFUSAL", pb_utils.TritonError.UNAVAILABLE)
            sender.send(pb_utils.InferenceResponse([], error), flags=1)
            return
        if (orders[:, 2] == 3).any():
            return
        boxes = np.zeros((len(images), 4), np.float32)
        boxes[:, 0] = -1 if self.spoilt else orders[:, 0]
        boxes[:, 1] = images.reshape(len(images), -1)[:, 12:].max(axis=1)
        boxes[:, 2] = images.reshape(len(images), -1)[:, 12:].min(axis=1)
        boxes[:, 3] = size
        classes = np.zeros((len(images), 1), np.int32)
        tensors = [pb_utils.Tensor("boxes", boxes), pb_utils.Tensor("classes", classes)]
        sender.send(pb_utils.InferenceResponse(tensors), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        if (orders[:, 2] == 4).any():
            time.sleep(0.3)
            as_before = (images.reshape(len(images), -1)[:, 12:] == orders[:, :1] % 251).all()
            self.spoilt = self.spoilt or images.flags.writeable or not as_before

    def finalize(self):
        self.pool.shutdown()
"""


def write_caller(folder: Path, name: str = "caller", *, process: str = "server", threads: int = 64) -> None:
    """A model that calls others, from ``threads`` threads; see :func:`asked`.

    Its finalize makes a last call, and writes what became of it into ``folder / "finalized"``.
    """
    text = _CALLER.replace("THREADS", str(threads)).replace("FINALIZED", str(folder / "finalized"))
    _write(folder, name, _CALLER_CONFIG.format(name=name, process=process), text)


def write_detector(
    folder: Path, name: str = "detector", *, process: str = "server", batching: str = ""
) -> None:
    """A model that answers a batch at a time; ``batching`` are fields of its dynamic batching."""
    config = _DETECTOR_CONFIG.format(name=name, process=process, batching=batching)
    _write(folder, name, config, _DETECTOR.replace("REFUSAL", REFUSAL))


def write_ensemble(folder: Path) -> None:
    """``detector`` under the name ``ensemble``."""
    _write(folder, "ensemble", _ENSEMBLE_CONFIG, None)


def _write(folder: Path, name: str, config: str, model: str | None) -> None:
    version = folder / name / "1"
    version.mkdir(parents=True)
    (folder / name / "config.pbtxt").write_text(config)
    if model is not None:
        (version / "model.py").write_text(model)


def asked(*numbers: int, **changed: Any) -> dict[str, Any]:
    """What a caller is to ask the detector of the pictures ``numbers``."""
    usual = {
        "numbers": numbers,
        "sleep_ms": 0,
        "order": ANSWER,
        "height": 8,
        "model": "detector",
        "input": "images",
        "dtype": "uint8",
        "outputs": ["boxes"],
        "timeout_us": 0,
        "mirrored": False,
    }
    return usual | changed


def question(what: dict[str, Any]) -> list[grpcclient.InferInput]:
    """The input of a caller."""
    tensor = grpcclient.InferInput("ASKED", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([json.dumps(what).encode()], dtype=object))
    return [tensor]


def ask(
    connection: grpcclient.InferenceServerClient, what: dict[str, Any], model: str = "caller"
) -> NDArray[np.float32]:
    """The boxes that a caller answers with: number, largest and smallest pixel, size of the batch."""
    return connection.infer(model, question(what), client_timeout=60).as_numpy("boxes")
