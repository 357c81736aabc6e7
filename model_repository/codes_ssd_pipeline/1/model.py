"""Triton python model, the three steps in one process: IMAGE -> the contract's outputs.

It runs on Triton's python backend, or on detserve's own within the server's process.

Every picture is its own task for a pool of threads: OpenCV and the runtime release the GIL, the session
is shared, and nothing is copied between processes. ``execute`` hands the tasks out and returns None; a
request is answered, through its response sender, by the thread that finishes its last picture.

The queue is here and not in Triton, whose batcher stalls for up to half a second while its queue is full.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

_START_S = 10
OUTPUTS = ("num_detections", "boxes", "scores", "classes")


class TritonPythonModel:
    """Preprocess, detector, postprocess; see the detserve_*.py beside this file."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the card from the model's parameters and open model.onnx beside this file."""
        parameters = json.loads(args["model_config"])["parameters"]
        said = {name: parameter["string_value"] for name, parameter in parameters.items()}
        card = json.loads(said["detserve_card"])
        # OpenCV reads this once, when it is loaded: a decompression bomb is refused from its header.
        # Written only where it changes something: within the server other threads read the environment.
        for name, value in (
            ("OPENCV_IO_MAX_IMAGE_PIXELS", str(card["max_picture_pixels"])),
            ("OPENCV_LOG_LEVEL", "SILENT"),
        ):
            if os.environ.get(name) != value:
                os.environ[name] = value
        import cv2
        import detserve_detector
        import detserve_postprocess
        import detserve_preprocess
        import detserve_queue
        import detserve_scope

        self.scope, self.model_name = detserve_scope, args["model_name"]
        cv2.setNumThreads(1)
        self.pre, self.detector, self.post = detserve_preprocess, detserve_detector, detserve_postprocess
        self.preprocess_settings = detserve_preprocess.settings(card)
        self.card_thresholds = card["thresholds"]
        folder = Path(args["model_repository"]) / args["model_version"]
        # One thread more than cores, for while one waits, for Triton to take its answer or for OpenVINO's own
        # threads, another has the core. Within the server's process ONNX Runtime's never wait, and a third
        # thread on two cores would only take turns with their caches.
        waits = said["runtime"] == "openvino" or not hasattr(pb_utils, "WITHIN_SERVER")
        threads = _cores() + waits
        self.session = detserve_detector.open_session(
            str(folder / "model.onnx"),
            int(said["threads"]),
            runtime=said["runtime"],
            floats=said["floats"],
            callers=threads,
        )
        self.pool = ThreadPoolExecutor(threads)
        # All start now: a picture for which no thread can be had later would count as waiting for ever.
        together = threading.Barrier(threads)
        list(self.pool.map(lambda _: together.wait(_START_S), range(threads)))
        self.max_wait_s = float(said["max_wait_s"])
        self.queue = detserve_queue.PictureQueue(int(said["max_waiting"]))
        try:
            self.report = detserve_queue.QueueReport(self.queue, {"model": args["model_name"]}, pb_utils)
        except pb_utils.TritonModelException as error:  # Triton runs without metrics
            pb_utils.Logger.log_warn(f"no metrics of the queue of {args['model_name']}: {error}")
            self.report = None

    def execute(self, requests: list[Any]) -> None:
        """Queue the pictures of each request, or refuse all of them where the queue is full."""
        for request in requests:
            sender = request.get_response_sender()
            if refusal := self._enter(request, sender):
                _send(sender, error=refusal)

    def finalize(self) -> None:
        """Answer what is in flight."""
        self.pool.shutdown()
        if self.report:
            self.report.stop()

    def _enter(self, request: Any, sender: Any) -> Any:
        """Queue the pictures of one request; returns the TritonError with which it is refused instead."""
        if reason := self.scope.refusal(request.parameters(), self.model_name):
            return _refused(reason)
        try:
            thresholds = self.post.request_thresholds(
                self.card_thresholds, json.loads(request.parameters() or "{}")
            )
            tensor = pb_utils.get_input_tensor_by_name(request, "IMAGE")
            if not self.queue.admits(math.prod(tensor.shape())):
                return _overloaded(f"exceeds maximum queue size of {self.queue.max_waiting} pictures")
            pictures = tensor.as_numpy().reshape(-1)
        except ValueError as error:  # a threshold out of range, data that contradicts its own lengths
            return _refused(str(error))
        self.queue.enter(len(pictures))
        answer = Answer(sender, len(pictures), min(self.max_wait_s, _timeout_s(request)))
        for index, encoded in enumerate(pictures):
            self.pool.submit(self._work, answer, index, encoded, thresholds)
        return None

    def _work(self, answer: Answer, index: int, encoded: bytes, thresholds: dict[str, Any]) -> None:
        refusal = answer.refusal()
        self.queue.leave(refused=refusal is not None)
        try:
            answer.put(index, refusal or self._outcome(index, encoded, thresholds))
        except Exception as error:  # e.g. no shared memory is left for the outputs
            pb_utils.Logger.log_error(traceback.format_exc())
            _send(answer.sender, error=pb_utils.TritonError(repr(error)))

    def _outcome(self, index: int, encoded: bytes, thresholds: dict[str, Any]) -> Any:
        """The outputs for one picture, or the TritonError that stands for them."""
        try:
            image, geometry = self.pre.preprocess(encoded, **self.preprocess_settings)
            candidates = self.session.run(self.detector.OUTPUTS, {"images": image[None]})
            return self.post.postprocess(*(batch[0] for batch in candidates), geometry, **thresholds)
        except self.pre.PictureError as error:
            return _refused(f"picture {index}: {error}")
        except Exception as error:  # a bug; without an answer its request would wait for ever
            pb_utils.Logger.log_error(traceback.format_exc())
            return pb_utils.TritonError(repr(error))


class Answer:
    """The pictures of one request. Whoever puts the last one sends them, or the first refusal among them."""

    def __init__(self, sender: Any, pictures: int, max_wait_s: float) -> None:
        self.sender = sender
        self.since_s, self.max_wait_s = time.monotonic(), max_wait_s
        self.results: list[Any] = [None] * pictures
        self.missing = pictures
        self.lock = threading.Lock()

    def refusal(self) -> Any:
        """Why a picture that has waited is not worth the work any more, or None."""
        waited_s = time.monotonic() - self.since_s
        if waited_s > self.max_wait_s:
            return _overloaded(f"request timeout expired: no thread was free for {self.max_wait_s:g} s")
        return None

    def put(self, index: int, result: Any) -> None:
        """Keep what became of one picture."""
        with self.lock:
            self.results[index] = result
            self.missing -= 1
            if self.missing:
                return
        refusals = [result for result in self.results if isinstance(result, pb_utils.TritonError)]
        if refusals:
            _send(self.sender, error=refusals[0])
            return
        stacked = (np.stack(values) for values in zip(*self.results, strict=True))
        _send(self.sender, [pb_utils.Tensor(*named) for named in zip(OUTPUTS, stacked, strict=True)])


def _cores() -> int:
    """Cores that this process may use: by its affinity, and by its container's quota (cgroup 2, cpu.max)."""
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except OSError:
        return allowed
    return allowed if quota == "max" else min(allowed, math.ceil(int(quota) / int(period)))


def _send(sender: Any, outputs: Any = (), error: Any = None) -> None:
    response = pb_utils.InferenceResponse(output_tensors=list(outputs), error=error)
    sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _timeout_s(request: Any) -> float:
    """What the client set, or no end."""
    timeout_us = request.timeout()
    return timeout_us / 1e6 if timeout_us else float("inf")


def _overloaded(reason: str) -> Any:
    return pb_utils.TritonError(reason, pb_utils.TritonError.UNAVAILABLE)


def _refused(reason: str) -> Any:
    return pb_utils.TritonError(reason, pb_utils.TritonError.INVALID_ARG)
