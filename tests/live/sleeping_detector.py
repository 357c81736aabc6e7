"""A detector that takes no CPU, behind the steps that a build writes: it only sleeps for each batch."""

from __future__ import annotations

from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from detserve_builder.build import build
from detserve_builder.triton_config import Placement, Target
from detserve_core.repository.manifest import read_manifest

CODES_YOLO = Path(__file__).parents[2] / "zoo/codes_yolo/checkpoint.onnx"
NAME = "sleepy"
_MODEL = """
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.sending_s = 0.0

    def execute(self, requests):
        time.sleep(max(0.0, SLEEP_S - self.sending_s))
        since_s = time.perf_counter()
        for request in requests:
            images = pb_utils.get_input_tensor_by_name(request, "images").as_numpy()
            response = pb_utils.InferenceResponse(output_tensors=candidates(len(images)))
            flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
            request.get_response_sender().send(response, flags=flags)
        self.sending_s = time.perf_counter() - since_s
        CPU_S.write_text(str(time.thread_time()))

    def finalize(self):
        pass


BOXES = np.tile(np.array([10, 10, 60, 60], np.float32), (8, CANDIDATES, 1))
SCORES, CLASSES = np.zeros((8, CANDIDATES), np.float32), np.zeros((8, CANDIDATES), np.int32)
SCORES[:, 0] = 0.9
CPU_S = Path("CPU_FILE")


def candidates(batch):
    outputs = {"boxes": BOXES, "scores": SCORES, "classes": CLASSES}
    return [pb_utils.Tensor(name, values[:batch]) for name, values in outputs.items()]
"""


def build_sleeping(
    folder: Path, *, sleep_s: float, placement: Placement, within_server: bool = False
) -> Path:
    """A repository for Triton's own runtimes, whose detector takes ``sleep_s`` for up to 8 pictures.

    That holds the time it takes to answer them: one of 40 ms can do 200 pictures/s and not 180. The file
    ``cpu_s`` beside the models has the CPU time of its thread.
    """
    build(str(CODES_YOLO), name=NAME, repository=folder, target=Target.ONNXRUNTIME, placement=placement)
    config = read(folder, "detector")
    config.backend, config.default_model_filename = "python", ""
    config.instance_group[0].kind = model_config_pb2.ModelInstanceGroup.KIND_CPU
    card = read_manifest(folder, NAME).card
    if within_server:
        config.parameters["process"].string_value = "server"
        config.parameters["detserve_card"].string_value = card.model_dump_json()
    write(folder, "detector", config)
    values = {"SLEEP_S": sleep_s, "CANDIDATES": card.candidates, "CPU_FILE": (folder / "cpu_s").absolute()}
    model = _MODEL
    for name, value in values.items():
        model = model.replace(name, str(value))
    (folder / f"{NAME}_detector" / "1" / "model.py").write_text(model)
    return folder


def bound_by_triton(folder: Path) -> Path:
    """Give each of three steps a queue policy with a size, and no bound of its own."""
    for step in ("preprocess", "detector", "postprocess"):
        config = read(folder, step)
        policy = config.dynamic_batching.default_queue_policy
        policy.default_timeout_microseconds, policy.allow_timeout_override = 10_000_000, True
        policy.max_queue_size = 32
        if step == "preprocess":
            config.parameters["max_waiting"].string_value = "1000000"
        write(folder, step, config)
    return folder


def read(folder: Path, step: str) -> model_config_pb2.ModelConfig:
    """The configuration of a step."""
    text = (folder / f"{NAME}_{step}" / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def write(folder: Path, step: str, config: model_config_pb2.ModelConfig) -> None:
    """Replace the configuration of a step."""
    (folder / f"{NAME}_{step}" / "config.pbtxt").write_text(text_format.MessageToString(config))
