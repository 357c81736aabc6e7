"""Requests of pictures: queued, spread over threads, answered with the last of their pictures, or refused.

``execute`` hands the pictures out and returns None; a request is answered, through its response sender, by
the thread that finishes its last picture. The queue is here and not in Triton, whose batcher stalls for up to
half a second where a queue policy bounds it.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from detserve_metrics import CountedSender, Report, RequestCounts
from detserve_queue import PictureQueue
from detserve_scope import refusal

#: Who waited for less has most likely not gone, and to ask is a message to the server's process.
_ASK_AFTER_S = 0.05


class Refusal(Exception):
    """One picture cannot be answered, and so its request."""

    def __init__(self, outcome: str, error: Any) -> None:
        """``error`` is the TritonError that the request gets, ``outcome`` what it counts as."""
        super().__init__(outcome)
        self.outcome, self.error = outcome, error


class PictureRequests:
    """The requests of one model instance."""

    def __init__(
        self,
        args: Mapping[str, str],
        said: Mapping[str, str],
        counts: RequestCounts,
        *,
        threads: int,
        outputs: Sequence[str],
        settings_of: Callable[[dict[str, Any]], Any],
        work: Callable[[bytes, Any], Sequence[Any]],
        bad_picture: type[Exception],
    ) -> None:
        """Start ``threads``; ``said`` are the model's parameters, max_waiting and max_wait_s among them.

        ``args`` are those of initialize. What becomes of requests goes into ``counts`` and Triton's metrics.
        ``settings_of`` reads a request's parameters and raises ValueError for a wrong one. ``work`` takes a
        picture and these settings and gives a value for each of ``outputs``; it raises ``bad_picture`` for a
        picture that cannot be used and :class:`Refusal` for any other refusal.
        """
        self.model_name, self.counts, self.outputs = args["model_name"], counts, outputs
        self.settings_of, self.work, self.bad_picture = settings_of, work, bad_picture
        self.usual_settings = settings_of({})
        # All start now: a picture for which no thread can be had later would count as waiting for ever.
        self.tasks: SimpleQueue[tuple[Any, ...] | None] = SimpleQueue()
        self.threads = [threading.Thread(target=self._run, name=f"pictures-{n}") for n in range(threads)]
        for thread in self.threads:
            thread.start()
        self.max_wait_s = float(said["max_wait_s"])
        self.queue = PictureQueue(int(said["max_waiting"]))
        self.report = Report([self.queue, counts], self.model_name, args["model_instance_name"], pb_utils)

    def execute(self, requests: Sequence[Any]) -> None:
        """Queue the pictures of each request, or refuse all of them where the queue is full."""
        for request in requests:
            sender = CountedSender(request.get_response_sender(), self.counts)
            try:
                self._enter(request, sender)
            except Refusal as error:
                _send(sender, refusal=error)
            except Exception as error:  # a bug; the requests beside this one are not to suffer
                _send(sender, refusal=_failed(error))

    def finish(self) -> None:
        """Answer what is in flight."""
        for _ in self.threads:
            self.tasks.put(None)
        for thread in self.threads:
            thread.join()
        self.report.stop()

    def _enter(self, request: Any, sender: Any) -> None:
        """Queue the pictures of one request; raises Refusal."""
        parameters = request.parameters()
        if reason := refusal(parameters, self.model_name):
            raise refused(reason)
        try:
            settings = self.settings_of(json.loads(parameters)) if parameters else self.usual_settings
            tensor = pb_utils.get_input_tensor_by_name(request, "IMAGE")
            if not self.queue.admits(math.prod(tensor.shape())):
                raise overloaded(f"exceeds maximum queue size of {self.queue.max_waiting} pictures")
            pictures = tensor.as_numpy().reshape(-1)
        except ValueError as error:  # a threshold out of range, data that contradicts its own lengths
            raise refused(str(error)) from None
        self.queue.enter(len(pictures))
        answer = Answer(self.outputs, sender, len(pictures), min(self.max_wait_s, _timeout_s(request)))
        for index, encoded in enumerate(pictures):
            self.tasks.put((answer, index, encoded, settings))

    def _run(self) -> None:
        while task := self.tasks.get():
            try:
                self._take(*task)
            except Exception:  # a thread that ended would be missed by all pictures after this one
                pb_utils.Logger.log_error(traceback.format_exc())
            del task  # the picture with it

    def _take(self, answer: Answer, index: int, encoded: bytes, settings: Any) -> None:
        waited_s = time.monotonic() - answer.since_s
        self.counts.spend(queue=waited_s)
        try:
            refusal = answer.not_worth_the_work(waited_s)
            self.queue.leave(refused=refusal is not None)
            answer.put(index, refusal or self._outcome(index, encoded, settings))
        except Exception as error:  # e.g. no shared memory is left for the outputs
            _send(answer.sender, refusal=_failed(error))

    def _outcome(self, index: int, encoded: bytes, settings: Any) -> Any:
        """The outputs for one picture, or the Refusal that stands for them."""
        try:
            return self.work(encoded, settings)
        except self.bad_picture as error:
            return refused(f"picture {index}: {error}")
        except Refusal as error:
            return error
        except Exception as error:  # a bug; without an answer its request would wait for ever
            return _failed(error)


class Answer:
    """The pictures of one request. Whoever puts the last one sends them, or the first refusal among them."""

    def __init__(self, outputs: Sequence[str], sender: Any, pictures: int, max_wait_s: float) -> None:
        self.outputs, self.sender = outputs, sender
        self.since_s, self.max_wait_s = time.monotonic(), max_wait_s
        self.results: list[Any] = [None] * pictures
        self.missing = pictures
        self.lock = threading.Lock()

    def not_worth_the_work(self, waited_s: float) -> Refusal | None:
        """Why not, of a picture that has waited too long or whose caller has gone; or None."""
        if waited_s > self.max_wait_s:
            reason = f"request timeout expired: no thread was free for {self.max_wait_s:g} s"
            return Refusal("expired", pb_utils.TritonError(reason, pb_utils.TritonError.UNAVAILABLE))
        if waited_s > _ASK_AFTER_S and self.sender.is_cancelled():
            gone = pb_utils.TritonError("the caller has gone", pb_utils.TritonError.CANCELLED)
            return Refusal("cancelled", gone)
        return None

    def put(self, index: int, result: Any) -> None:
        """Keep what became of one picture."""
        with self.lock:
            self.results[index] = result
            self.missing -= 1
            if self.missing:
                return
        refusals = [result for result in self.results if isinstance(result, Refusal)]
        if refusals:
            _send(self.sender, refusal=refusals[0])
            return
        outputs = zip(self.outputs, *self.results, strict=True)
        _send(self.sender, [pb_utils.Tensor(name, _stacked(values)) for name, *values in outputs])


def _stacked(values: Sequence[Any]) -> Any:
    return values[0][None] if len(values) == 1 else np.stack(values)  # nothing is copied for one picture


def prepare_opencv(card: Mapping[str, Any]) -> None:
    """Before it is loaded: a decompression bomb is to be refused from its header, and without a word."""
    # Written only where it changes something: within the server other threads read the environment.
    for name, value in (
        ("OPENCV_IO_MAX_IMAGE_PIXELS", str(card["max_picture_pixels"])),
        ("OPENCV_LOG_LEVEL", "SILENT"),
    ):
        if os.environ.get(name) != value:
            os.environ[name] = value
    import cv2

    cv2.setNumThreads(1)


def overloaded(reason: str) -> Refusal:
    """What may be asked again."""
    return Refusal("overloaded", pb_utils.TritonError(reason, pb_utils.TritonError.UNAVAILABLE))


def refused(reason: str) -> Refusal:
    """What is the caller's to fix."""
    return Refusal("refused", pb_utils.TritonError(reason, pb_utils.TritonError.INVALID_ARG))


def _failed(error: Exception) -> Refusal:
    pb_utils.Logger.log_error("".join(traceback.format_exception(error)))
    return Refusal("failed", pb_utils.TritonError(repr(error)))


def _send(sender: Any, outputs: Any = (), refusal: Refusal | None = None) -> None:
    outcome, error = (refusal.outcome, refusal.error) if refusal else ("answered", None)
    response = pb_utils.InferenceResponse(output_tensors=list(outputs), error=error)
    sender.send(response, pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL, outcome)


def _timeout_s(request: Any) -> float:
    """What the client set, or no end."""
    timeout_us = request.timeout()
    return timeout_us / 1e6 if timeout_us else float("inf")
