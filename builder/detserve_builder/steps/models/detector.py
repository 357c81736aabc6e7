"""Triton python backend, step 2 of the ``embedded`` target: images -> boxes, scores, classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from detserve_detector import OUTPUTS, open_session
from detserve_scope import refusal


class TritonPythonModel:
    """Runs the requests of one dynamic batch at once; see detserve_detector."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open model.onnx beside this file."""
        self.model_name = args["model_name"]
        parameters = json.loads(args["model_config"])["parameters"]
        folder = Path(args["model_repository"]) / args["model_version"]
        said = {name: parameter["string_value"] for name, parameter in parameters.items()}
        self.session = open_session(
            str(folder / "model.onnx"), int(said["threads"]), runtime=said["runtime"], floats=said["floats"]
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request."""
        reasons = [refusal(request.parameters(), self.model_name) for request in requests]
        allowed = [request for request, reason in zip(requests, reasons, strict=True) if reason is None]
        responses = iter(self._detect(allowed) if allowed else [])
        return [next(responses) if reason is None else _refused(reason) for reason in reasons]

    def _detect(self, requests: list[Any]) -> list[Any]:
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


def _refused(reason: str) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(reason, pb_utils.TritonError.INVALID_ARG))
