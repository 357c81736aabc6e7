"""What a client does, step by step, without doing any of it.

A flow is a generator: it yields the next :data:`~detserve_client.engine.flow_steps.Step`, is sent the answer
or has the error thrown in, and returns the result. :class:`~detserve_client.Client` runs flows with
threads, :class:`~detserve_client.AsyncClient` in an event loop; what they do is written here, once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from detserve_client.engine.faults import unready
from detserve_client.engine.flow_steps import (
    AskReady,
    FetchConfig,
    Flow,
    Infer,
    ListModels,
    Pause,
    Step,
    Work,
)
from detserve_client.engine.retries import Retries
from detserve_client.engine.wire import DetectionRequest, card_of, decode
from detserve_client.pictures.encoding import PictureSource, encoded_picture
from detserve_client.results.outcomes import Detected, Failed, Outcome
from detserve_client.shared_memory.frames import FrameTransfer, SharedFrames
from detserve_core.card import Card
from detserve_core.detections import Detections
from detserve_core.endpoint import Endpoint
from detserve_core.errors import (
    AccessDenied,
    ContractViolation,
    DeadlineExceeded,
    InferenceError,
    ModelNotFound,
    RequestRejected,
    ServerUnavailable,
    SourceError,
)
from detserve_core.pictures.files import checked_pixels

_OPTION = 'model="NAME" in Python, --model NAME on the command line'

# How long a waiting request may sleep through the end of an outage.
_LONGEST_PAUSE_S = 0.1
_READY_S = 2.0


@dataclass(frozen=True)
class Limits:
    """What one call may override: Triton's request parameters, and the seconds it may take."""

    parameters: dict[str, float | int]
    timeout_s: float


_ALIVE: WeakSet[Flows] = WeakSet()


def _renew_after_fork() -> None:
    """Give a child its own regions and locks; those of its parent are neither used nor removed."""
    for flows in list(_ALIVE):
        flows._begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_after_fork)


class Flows:
    """The flows of one client; holds the model's card once it is known.

    Args:
        endpoint: where the server is.
        model: name of the detector; "" is the only one that the server has, and ``model`` becomes its name.
        patience_s: how long a server that is away is waited for; see
            :class:`~detserve_client.engine.retries.Retries`.
    """

    def __init__(self, endpoint: Endpoint, model: str, patience_s: float) -> None:
        self.model = model
        self._endpoint = endpoint
        self._patience_s = patience_s
        self._begin_anew()
        self._card: Card | None = None
        self._names: tuple[str, ...] = ()
        self._max_batch = 1

        _ALIVE.add(self)

    def _begin_anew(self) -> None:
        """Nothing is shared with the server, and nothing is known of an outage."""
        self._frames = SharedFrames(self._endpoint)
        self._retries = Retries(self._patience_s)

    def server_answered(self) -> None:
        """Say that the server has answered something outside the flows: there is no outage."""
        self._retries.answered()

    def card(self, deadline_s: float) -> Flow[Card]:
        """The card, fetched once. ``deadline_s`` is a time of ``time.monotonic``."""
        if self._card is None:
            if not self.model:
                self.model = yield from self._only_detector(deadline_s)
            try:
                config = yield from self._config(self.model, deadline_s)
            except ModelNotFound as error:
                raise (yield from self._with_choice(error, deadline_s)) from None
            card = card_of(config, self.model)
            self._names, self._max_batch = tuple(card.labels), max(1, int(config.get("max_batch_size", 1)))
            self._card = card
        return self._card

    def detectors(self, deadline_s: float) -> Flow[list[str]]:
        """The names of the detectors that the server has ready, in alphabetical order."""
        names = yield from self._retried(ListModels, deadline_s)
        found: list[str] = []
        steps: set[str] = set()
        for name in sorted(set(names)):
            try:
                config = yield from self._config(name, deadline_s)
                card_of(config, name)
            except (ContractViolation, ModelNotFound, AccessDenied):
                continue
            found.append(name)
            steps.update(step["model_name"] for step in config.get("ensemble_scheduling", {}).get("step", ()))
        return [name for name in found if name not in steps]

    def _config(self, model: str, deadline_s: float) -> Flow[dict[str, Any]]:
        config: dict[str, Any] = yield from self._retried(
            lambda left_s: FetchConfig(model, left_s), deadline_s
        )
        return config

    def _only_detector(self, deadline_s: float) -> Flow[str]:
        try:
            names = yield from self.detectors(deadline_s)
        except AccessDenied as error:
            raise AccessDenied(
                f"{error}; it does not list its detectors to this client, so name yours: {_OPTION}"
            ) from None
        if len(names) != 1:
            there = f"{len(names)} detectors, {', '.join(names)}: name one" if names else "no detector"
            raise ModelNotFound(f"{self._endpoint} serves {there} ({_OPTION})")
        return names[0]

    def _with_choice(self, error: ModelNotFound, deadline_s: float) -> Flow[ModelNotFound]:
        """The error with the names of the detectors that there are, where the server lists them."""
        try:
            names = yield from self.detectors(deadline_s)
        except InferenceError:
            return error
        return ModelNotFound(f"{error}; the detectors there: {', '.join(names) or 'none'} ({_OPTION})")

    def detect(self, source: PictureSource, limits: Limits) -> Flow[Detections]:
        """The detections of one picture."""
        deadline_s = time.monotonic() + limits.timeout_s
        if isinstance(source, np.ndarray):
            detections = yield from self._detect_shared(checked_pixels(source), limits, deadline_s)
            if detections is not None:
                return detections
        picture = yield from self._encoded(source, limits.timeout_s)
        yield from self.card(deadline_s)
        request = DetectionRequest(self.model, (picture,), limits.parameters)
        (detections,) = yield from self._sent(request, deadline_s)
        return detections

    def frame_transfer(self, deadline_s: float) -> Flow[FrameTransfer]:
        """How raw frames travel to this server."""
        return (yield from self._frames.decide(partial(self._retried, deadline_s=deadline_s)))

    def close(self) -> Flow[None]:
        """Give back what the server holds for this client."""
        yield from self._frames.close()

    def _detect_shared(
        self, pixels: NDArray[np.uint8], limits: Limits, deadline_s: float
    ) -> Flow[Detections | None]:
        """The detections of a frame that travels by shared memory, None when it cannot."""
        retried = partial(self._retried, deadline_s=deadline_s)
        yield from self.card(deadline_s)
        for last in (False, True):
            written = yield from self._frames.written(pixels, retried)
            if written is None:
                return None
            region, tensor = written
            request = DetectionRequest(self.model, (), limits.parameters, tensor)
            try:
                (detections,) = yield from self._sent(request, deadline_s)
                return detections
            except InferenceError as error:
                if not self._frames.lost(region, error):
                    raise
                if last:
                    self._frames.give_up(error)
            finally:
                self._frames.give_back(region)
        return None

    def outcome(self, index: int, source: PictureSource, limits: Limits) -> Flow[Outcome]:
        """As :meth:`detect`, with the error of this picture in the outcome."""
        started_s = time.perf_counter()
        try:
            detections = yield from self.detect(source, limits)
        except (InferenceError, SourceError) as error:
            return Failed(source, error, index)
        return Detected(source, detections, time.perf_counter() - started_s, index)

    def batches(self, sources: Sequence[PictureSource], deadline_s: float) -> Flow[list[range]]:
        """Which sources travel together: as many as the model takes."""
        yield from self.card(deadline_s)
        size = self._max_batch
        return [range(first, min(first + size, len(sources))) for first in range(0, len(sources), size)]

    def batch(
        self, indices: Sequence[int], sources: Sequence[PictureSource], limits: Limits
    ) -> Flow[list[Outcome]]:
        """The outcomes of sources that travel in one request.

        Triton refuses a request as a whole: where one picture is bad, each is sent by itself.
        """
        started_s = time.perf_counter()
        deadline_s = time.monotonic() + limits.timeout_s
        outcomes: dict[int, Outcome] = {}
        pictures: dict[int, bytes] = {}
        for index in indices:
            try:
                pictures[index] = yield from self._encoded(sources[index], limits.timeout_s)
            except SourceError as error:
                outcomes[index] = Failed(sources[index], error, index)
        groups = [tuple(pictures)] if pictures else []
        while groups:
            group = groups.pop()
            encoded = tuple(pictures[index] for index in group)
            try:
                request = DetectionRequest(self.model, encoded, limits.parameters)
                found = yield from self._sent(request, deadline_s)
            except RequestRejected as error:
                if len(group) > 1:
                    groups += [(index,) for index in group]
                else:
                    outcomes[group[0]] = Failed(sources[group[0]], error, group[0])
            except InferenceError as error:
                outcomes |= {index: Failed(sources[index], error, index) for index in group}
            else:
                latency_s = time.perf_counter() - started_s
                for index, detections in zip(group, found, strict=True):
                    outcomes[index] = Detected(sources[index], detections, latency_s, index)
        return [outcomes[index] for index in indices]

    def _encoded(self, source: PictureSource, timeout_s: float) -> Flow[bytes]:
        if isinstance(source, bytes):
            return encoded_picture(source)
        encoded: bytes = yield Work(lambda: encoded_picture(source, timeout_s))
        return encoded

    def _sent(self, request: DetectionRequest, deadline_s: float) -> Flow[list[Detections]]:
        outputs = yield from self._retried(lambda left_s: Infer(request, left_s), deadline_s)
        return decode(outputs, model=self.model, names=self._names, pictures=request.count)

    def _retried(self, step: Callable[[float], Step], deadline_s: float) -> Flow[Any]:
        """Take the step with the seconds left until an answer comes, the outage is too long or time is up."""
        failure: ServerUnavailable | ModelNotFound | None = None
        while True:
            while (wait_s := self._retries.wait_s()) > 0:
                if time.monotonic() + wait_s >= deadline_s:
                    raise failure or self._retries.outage()
                yield Pause(min(wait_s, _LONGEST_PAUSE_S))
            started_s = time.monotonic()
            try:
                answer = yield step(max(deadline_s - started_s, 0.001))
            except (ServerUnavailable, ModelNotFound) as error:
                failure = error
                if isinstance(error, ModelNotFound) and (yield from self._is_down(deadline_s)):
                    failure = unready(url=str(self._endpoint))
                # A server that exchanges a model's version does not know it for a while.
                if isinstance(failure, ModelNotFound) and self._card is None:
                    self._retries.answered()
                    raise
                if not self._retries.failed(started_s, failure):
                    raise failure from None
            except DeadlineExceeded:
                raise
            except InferenceError:
                self._retries.answered()
                raise
            else:
                self._retries.answered()
                return answer

    def _is_down(self, deadline_s: float) -> Flow[bool]:
        """Whether the server is not ready; then it may not know, for now, a model that it serves."""
        left_s = max(deadline_s - time.monotonic(), 0.001)
        try:
            ready = yield AskReady(min(left_s, _READY_S))
        except ServerUnavailable:
            return True
        except InferenceError:  # a gateway that does not say
            return False
        return not ready
