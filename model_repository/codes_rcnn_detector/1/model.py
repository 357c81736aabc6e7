"""Triton python backend, step 2 of the ``embedded`` target: images -> boxes, scores, classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from detserve_detector import OUTPUTS, open_session


class TritonPythonModel:
    """Runs the requests of one dynamic batch as one ONNX Runtime call; see detserve_detector."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open model.onnx beside this file."""
        parameters = json.loads(args["model_config"])["parameters"]
        folder = Path(args["model_repository"]) / args["model_version"]
        threads = int(parameters["threads"]["string_value"])
        self.session = open_session(str(folder / "model.onnx"), threads)

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request."""
        batches = [pb_utils.get_input_tensor_by_name(request, "images").as_numpy() for request in requests]
        images = batches[0] if len(batches) == 1 else np.concatenate(batches)
        outputs = self.session.run(OUTPUTS, {"images": images})
        ends = np.cumsum([len(batch) for batch in batches])[:-1]
        responses = zip(*(np.split(output, ends) for output in outputs), strict=True)
        return [
            pb_utils.InferenceResponse(
                output_tensors=[
                    pb_utils.Tensor(name, value) for name, value in zip(OUTPUTS, values, strict=True)
                ]
            )
            for values in responses
        ]
