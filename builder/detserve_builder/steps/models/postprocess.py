"""Triton python backend, step 3: boxes, scores, classes, geometry -> the contract's outputs."""

from __future__ import annotations

import json
from typing import Any

import cv2
import numpy as np
import triton_python_backend_utils as pb_utils
from detserve_postprocess import postprocess, request_thresholds

INPUTS = ("boxes", "scores", "classes", "geometry")
OUTPUTS = ("num_detections", "boxes", "scores", "classes")


class TritonPythonModel:
    """Applies the card's thresholds or the request's; see detserve_postprocess."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the card from the model's parameters."""
        cv2.setNumThreads(1)
        parameters = json.loads(args["model_config"])["parameters"]
        self.thresholds = json.loads(parameters["detserve_card"]["string_value"])["thresholds"]

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        try:
            thresholds = request_thresholds(self.thresholds, json.loads(request.parameters() or "{}"))
        except ValueError as error:
            refusal = pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=refusal)
        batch = [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in INPUTS]
        rows = [postprocess(*item, **thresholds) for item in zip(*batch, strict=True)]
        return pb_utils.InferenceResponse(
            output_tensors=[
                pb_utils.Tensor(name, np.stack(values))
                for name, values in zip(OUTPUTS, zip(*rows, strict=True), strict=True)
            ]
        )
