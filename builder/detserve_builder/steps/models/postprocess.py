"""Triton python backend, step 3: boxes, scores, classes, geometry -> the contract's outputs."""

from __future__ import annotations

import json
import time
import traceback
from typing import Any

import cv2
import numpy as np
import triton_python_backend_utils as pb_utils
from detserve_metrics import Report, RequestCounts
from detserve_postprocess import postprocess, request_thresholds

INPUTS = ("boxes", "scores", "classes", "geometry")
OUTPUTS = ("num_detections", "boxes", "scores", "classes")


class TritonPythonModel:
    """Applies the card's thresholds or the request's; see detserve_postprocess."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the card from the model's parameters."""
        cv2.setNumThreads(1)
        config = json.loads(args["model_config"])
        self.thresholds = json.loads(config["parameters"]["detserve_card"]["string_value"])["thresholds"]
        self.counts = RequestCounts(("postprocess",), first=False, warm_ups=len(config["model_warmup"]))
        self.report = Report([self.counts], args["model_name"], args["model_instance_name"], pb_utils)

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request."""
        return [self._respond(request) for request in requests]

    def finalize(self) -> None:
        """Report for the last time."""
        self.report.stop()

    def _respond(self, request: Any) -> Any:
        try:
            thresholds = request_thresholds(self.thresholds, json.loads(request.parameters() or "{}"))
        except ValueError as wrong:
            return self._error("refused", pb_utils.TritonError(str(wrong), pb_utils.TritonError.INVALID_ARG))
        try:
            outputs = self._outputs(request, thresholds)
        except Exception as bug:  # the requests beside this one are not to suffer
            pb_utils.Logger.log_error(traceback.format_exc())
            return self._error("failed", pb_utils.TritonError(repr(bug)))
        self.counts.count("answered")
        return pb_utils.InferenceResponse(output_tensors=outputs)

    def _error(self, outcome: str, error: Any) -> Any:
        self.counts.count(outcome)
        return pb_utils.InferenceResponse(error=error)

    def _outputs(self, request: Any, thresholds: dict[str, Any]) -> list[Any]:
        batch = [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in INPUTS]
        rows = []
        for picture in zip(*batch, strict=True):
            began_s = time.monotonic()
            rows.append(postprocess(*picture, **thresholds))
            self.counts.spend(postprocess=time.monotonic() - began_s)
        stacked = (np.stack(values) for values in zip(*rows, strict=True))
        return [pb_utils.Tensor(*named) for named in zip(OUTPUTS, stacked, strict=True)]
