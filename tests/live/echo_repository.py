"""An ensemble with detserve's contract whose "pictures" are numbers, so that a mixed-up answer is seen.

The picture ``b"17"`` gives one detection whose box is [17, 0, 18, 1]. It takes 1 ms, or as many milliseconds
as a second number says: ``b"17 500"``. A BMP gives its width as the number.
"""

from __future__ import annotations

from pathlib import Path

from detserve_client import Card
from detserve_core.contract import CARD_PARAMETER

NAME = "echo"

_TENSORS = """
max_batch_size: 8
input { name: "IMAGE" data_type: TYPE_STRING dims: 1 }
output { name: "num_detections" data_type: TYPE_INT32 dims: 1 }
output { name: "boxes" data_type: TYPE_FP32 dims: [4, 4] }
output { name: "scores" data_type: TYPE_FP32 dims: 4 }
output { name: "classes" data_type: TYPE_INT32 dims: 4 }
"""
_STEP = """
backend: "python"
instance_group { kind: KIND_CPU count: 1 }
dynamic_batching {
  default_queue_policy {
    timeout_action: REJECT
    default_timeout_microseconds: 10000000
    allow_timeout_override: true
    max_queue_size: 256
  }
}
"""
_OUTPUTS = ("num_detections", "boxes", "scores", "classes")

_MODEL = """
import time
import numpy as np
import triton_python_backend_utils as pb_utils


def number_of(picture):
    if picture[:2] == b"BM":
        return int.from_bytes(picture[18:22], "little"), 1
    numbers = [int(word) for word in picture.split()]
    return numbers[0], (numbers[1] if len(numbers) > 1 else 1)


class TritonPythonModel:
    def execute(self, requests):
        return [self.respond(request) for request in requests]

    def respond(self, request):
        pictures = pb_utils.get_input_tensor_by_name(request, "IMAGE").as_numpy().reshape(-1)
        numbers = [number_of(picture) for picture in pictures]
        time.sleep(sum(milliseconds for _, milliseconds in numbers) / 1000)
        n = len(numbers)
        boxes, scores = np.zeros((n, 4, 4), np.float32), np.zeros((n, 4), np.float32)
        classes = np.full((n, 4), -1, np.int32)
        for row, (number, _) in enumerate(numbers):
            boxes[row, 0] = number, 0, number + 1, 1
        scores[:, 0], classes[:, 0] = 0.5, 0
        values = np.ones((n, 1), np.int32), boxes, scores, classes
        names = "num_detections", "boxes", "scores", "classes"
        return pb_utils.InferenceResponse([pb_utils.Tensor(*pair) for pair in zip(names, values)])
"""


def write_echo_repository(folder: Path) -> Path:
    """Write the ensemble and its one step; returns ``folder``."""
    card = Card.model_validate(
        {
            "name": NAME,
            "family": "yolox",
            "input_wh": (64, 64),
            "preprocess": {"resize": "stretch"},
            "labels": ["number"],
            "thresholds": {"max_detections": 4},
        }
    )
    text = card.to_json().replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    maps = "\n".join(f'output_map {{ key: "{name}" value: "{name}" }}' for name in _OUTPUTS)
    ensemble = f"""
name: "{NAME}"
platform: "ensemble"
{_TENSORS}
parameters {{ key: "{CARD_PARAMETER}" value {{ string_value: "{text}" }} }}
ensemble_scheduling {{ step {{
  model_name: "{NAME}_step" model_version: -1
  input_map {{ key: "IMAGE" value: "IMAGE" }}
  {maps}
}} }}
"""
    for name, config in ((NAME, ensemble), (f"{NAME}_step", f'name: "{NAME}_step"\n{_TENSORS}{_STEP}')):
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(config)
    (folder / f"{NAME}_step" / "1" / "model.py").write_text(_MODEL)
    return folder
