"""Triton python backend, step 1 with DALI: IMAGE -> images, geometry. A bad picture fails its own request."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
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
        from detserve_metrics import Report, RequestCounts

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
        # A pipeline that calls this step counts its requests itself.
        self.counts = RequestCounts(("decode",), last=False, warm_ups=len(config["model_warmup"]))
        counted = [self.counts] if "first_step" in config["parameters"] else []
        self.report = Report(counted, args["model_name"], args["model_instance_name"], pb_utils)

    def finalize(self) -> None:
        """Report for the last time."""
        self.report.stop()

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request; DALI sees the pictures of all of them together."""
        reasons = [self.refusal(request.parameters()) for request in requests]
        batches = [
            list(pb_utils.get_input_tensor_by_name(request, "IMAGE").as_numpy().reshape(-1))
            if reason is None
            else []
            for request, reason in zip(requests, reasons, strict=True)
        ]
        pictures = [picture for batch in batches for picture in batch]
        began_s = time.monotonic()
        results = self.preprocess(pictures)
        took_s = time.monotonic() - began_s
        for _ in pictures:  # each waits for the whole batch
            self.counts.spend(decode=took_s)
        return self._responses(batches, reasons, iter(results))

    def _responses(self, batches: list[Any], reasons: list[Any], results: Iterator[Any]) -> list[Any]:
        found = []
        for batch, reason in zip(batches, reasons, strict=True):
            own = [next(results) for _ in batch]
            wrong = reason or _first_error(own)
            self.counts.count("refused" if wrong else "answered")
            found.append(_refused(wrong) if wrong else _respond(own))
        return found


def _first_error(results: list[Any]) -> str | None:
    errors = (f"picture {index}: {one}" for index, one in enumerate(results) if isinstance(one, ValueError))
    return next(errors, None)


def _respond(results: list[Any]) -> Any:
    images, geometries = zip(*results, strict=True)
    return pb_utils.InferenceResponse(
        output_tensors=[
            pb_utils.Tensor("images", np.stack(images)),
            pb_utils.Tensor("geometry", np.stack(geometries)),
        ]
    )


def _refused(reason: str) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(reason, pb_utils.TritonError.INVALID_ARG))
