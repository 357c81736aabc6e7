"""Triton python backend, step 2 of the ``embedded`` target: images -> boxes, scores, classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from detserve_detector import OUTPUTS, open_session


class TritonPythonModel:
    """Runs the requests of one dynamic batch at once; see detserve_detector."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open model.onnx beside this file."""
        parameters = json.loads(args["model_config"])["parameters"]
        folder = Path(args["model_repository"]) / args["model_version"]
        said = {name: parameter["string_value"] for name, parameter in parameters.items()}
        self.session = open_session(
            str(folder / "model.onnx"), int(said["threads"]), runtime=said["runtime"], floats=said["floats"]
        )

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
