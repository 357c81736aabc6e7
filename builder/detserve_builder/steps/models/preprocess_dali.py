"""Triton python backend, step 1 with DALI: IMAGE -> images, geometry. A bad picture fails its own request."""

from __future__ import annotations

import json
import os
from functools import partial
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Decodes and resizes a dynamic batch at once; see detserve_dali."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the card from the model's parameters; a GPU instance decodes on its GPU."""
        config = json.loads(args["model_config"])
        card = json.loads(config["parameters"]["detserve_card"]["string_value"])
        # OpenCV reads this once, when it is loaded: a decompression bomb is refused from its header.
        os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(card["max_picture_pixels"])
        os.environ["OPENCV_LOG_LEVEL"] = "SILENT"
        import cv2
        import detserve_dali
        import detserve_scope

        cv2.setNumThreads(1)
        on_gpu = args["model_instance_kind"] == "GPU"
        self.refusal = partial(detserve_scope.refusal, model_name=args["model_name"])
        self.preprocess = detserve_dali.DaliPreprocess(
            input_wh=tuple(card["input_wh"]),
            resize=card["preprocess"]["resize"],
            pad_value=card["preprocess"]["pad_value"],
            max_picture_pixels=card["max_picture_pixels"],
            device_id=int(args["model_instance_device_id"]) if on_gpu else None,
            max_batch=max(1, config["max_batch_size"]),
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request; DALI sees the pictures of all of them together."""
        reasons = [self.refusal(request.parameters()) for request in requests]
        batches = [
            list(pb_utils.get_input_tensor_by_name(request, "IMAGE").as_numpy().reshape(-1))
            if reason is None
            else []
            for request, reason in zip(requests, reasons, strict=True)
        ]
        results = iter(self.preprocess([picture for batch in batches for picture in batch]))
        return [
            _respond([next(results) for _ in batch]) if reason is None else _refused(reason)
            for batch, reason in zip(batches, reasons, strict=True)
        ]


def _respond(results: list[Any]) -> Any:
    for index, result in enumerate(results):
        if isinstance(result, ValueError):
            return _refused(f"picture {index}: {result}")
    images, geometries = zip(*results, strict=True)
    return pb_utils.InferenceResponse(
        output_tensors=[
            pb_utils.Tensor("images", np.stack(images)),
            pb_utils.Tensor("geometry", np.stack(geometries)),
        ]
    )


def _refused(reason: str) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(reason, pb_utils.TritonError.INVALID_ARG))
