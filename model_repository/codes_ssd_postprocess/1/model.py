"""Triton python backend, step 3: boxes, scores, classes, geometry -> the contract's outputs."""

from __future__ import annotations

import json
from typing import Any

import cv2
import numpy as np
import triton_python_backend_utils as pb_utils
from detserve_postprocess import postprocess

INPUTS = ("boxes", "scores", "classes", "geometry")
OUTPUTS = ("num_detections", "boxes", "scores", "classes")


class TritonPythonModel:
    """Applies the card's thresholds or the request's; see detserve_postprocess."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the card from the model's parameters."""
        cv2.setNumThreads(1)
        parameters = json.loads(args["model_config"])["parameters"]
        thresholds = json.loads(parameters["detserve_card"]["string_value"])["thresholds"]
        self.rows = thresholds["max_detections"]
        self.defaults = {
            "score_threshold": thresholds["score"],
            "iou_threshold": thresholds["iou"],
            "max_detections": self.rows,
        }

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        try:
            settings = self._settings(json.loads(request.parameters() or "{}"))
        except ValueError as error:
            refusal = pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=refusal)
        batch = [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in INPUTS]
        rows = [postprocess(*item, rows=self.rows, **settings) for item in zip(*batch, strict=True)]
        return pb_utils.InferenceResponse(
            output_tensors=[
                pb_utils.Tensor(name, np.stack(values))
                for name, values in zip(OUTPUTS, zip(*rows, strict=True), strict=True)
            ]
        )

    def _settings(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """The card's thresholds, overridden by what this request says."""
        settings = dict(self.defaults)
        for name, highest in (("score_threshold", 1), ("iou_threshold", 1), ("max_detections", self.rows)):
            if name not in parameters:
                continue
            try:
                value = float(parameters[name])
            except (TypeError, ValueError):
                value = -1.0
            if not 0 <= value <= highest:
                raise ValueError(f"parameter {name} is {parameters[name]!r}, expected 0 to {highest}")
            settings[name] = int(value) if name == "max_detections" else value
        return settings
