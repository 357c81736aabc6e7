"""Triton python backend, step 1: IMAGE -> images, geometry. A bad picture fails its own request only."""

from __future__ import annotations

import json
import os
from functools import partial
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Decodes and resizes; see detserve_preprocess."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the card from the model's parameters."""
        parameters = json.loads(args["model_config"])["parameters"]
        card = json.loads(parameters["detserve_card"]["string_value"])
        # OpenCV reads this once, when it is loaded: a decompression bomb is refused from its header.
        os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(card["max_picture_pixels"])
        os.environ["OPENCV_LOG_LEVEL"] = "SILENT"
        import cv2
        import detserve_preprocess
        import detserve_scope

        cv2.setNumThreads(1)  # Triton runs several of these processes
        self.step, self.settings = detserve_preprocess, detserve_preprocess.settings(card)
        self.refusal = partial(detserve_scope.refusal, model_name=args["model_name"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        if reason := self.refusal(request.parameters()):
            return _refused(reason)
        pictures = pb_utils.get_input_tensor_by_name(request, "IMAGE").as_numpy().reshape(-1)
        images, geometries = [], []
        for index, encoded in enumerate(pictures):
            try:
                image, geometry = self.step.preprocess(encoded, **self.settings)
            except self.step.PictureError as error:
                return _refused(f"picture {index}: {error}")
            images.append(image)
            geometries.append(geometry)
        return pb_utils.InferenceResponse(
            output_tensors=[
                pb_utils.Tensor("images", np.stack(images)),
                pb_utils.Tensor("geometry", np.stack(geometries)),
            ]
        )


def _refused(reason: str) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(reason, pb_utils.TritonError.INVALID_ARG))
