"""The client for threads: pictures in, detections out."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, TypeVar

from detserve_client.engine.base_client import DEFAULT_TIMEOUT_S, DEFAULT_WINDOW, BaseClient, checked_window
from detserve_client.engine.cancellation import Cancellation
from detserve_client.engine.steps import (
    FetchConfig,
    Flow,
    Infer,
    ListRegions,
    Pause,
    RegisterRegion,
    Step,
    UnregisterRegion,
    Work,
)
from detserve_client.engine.streams import stream
from detserve_client.pictures.encoding import PictureSource
from detserve_client.results.outcomes import Outcome
from detserve_client.shared_memory.frames import FrameTransfer
from detserve_client.transports.base import Transport
from detserve_core.card import Card
from detserve_core.detections import Detections
from detserve_core.errors import DetserveError, ServerUnavailable
from detserve_core.security import UNSECURED, Security

_Result = TypeVar("_Result")


class Client(BaseClient):
    """Detects objects with one model of one server. May be used from several threads.

    Usage::

        with Client("grpc://localhost:8001", "codes") as client:
            for detection in client.detect("desk.jpg").above(0.5):
                print(detection.label, detection.score, detection.box_px)

    Every method raises an :class:`~detserve_core.errors.InferenceError` when the server, or the way to it,
    fails. A server that cannot be reached is tried again: one that has answered before for the whole timeout,
    so that a restart loses nothing, one that never did for less than a second. So is a model that the server
    no longer knows, as while the server goes down, for at most 8 s. Nothing else is tried again.

    Args:
        url: where the server listens: ``grpc://HOST:PORT`` or ``http://HOST:PORT``.
        model: name of the ensemble.
        timeout_s: how long one request may take, retries included.
        transport: another way to the server than the one ``url`` names, e.g. a
            :class:`~detserve_client.transports.FakeTransport`. The client closes it.
        security: what a gateway wants to see, over ``grpcs://`` or ``https://``.

    Raises:
        EndpointError: ``url`` is no address of a server, or has no TLS where ``security`` needs it.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        transport: Transport | None = None,
        security: Security = UNSECURED,
    ) -> None:
        super().__init__(url, model, timeout_s, security)
        if transport is None:
            from detserve_client.transports import transport_to

            transport = transport_to(self.endpoint)
        self._transport = transport

    def __enter__(self) -> Client:
        """Return the client itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the client."""
        self.close()

    def close(self) -> None:
        """Close the connections; the client cannot be used afterwards."""
        self._run(self._flows.close())
        self._transport.close()

    def ready(self) -> bool:
        """Whether the server is there and the model takes requests. Makes one attempt."""
        try:
            ready = self._transport.ready(self.model, self.timeout_s)
        except ServerUnavailable:
            return False
        self._flows.server_answered()
        return ready

    def card(self) -> Card:
        """The detector's card, asked for once and kept.

        Raises:
            ContractViolation: the model has no card.
        """
        return self._run(self._flows.card(self._deadline_s()))

    def frame_transfer(self) -> FrameTransfer:
        """How frames, BGR pixels in numpy arrays, travel to this server.

        By shared memory, as they are, when the server is on this host and allows it; else as JPEG, and the
        answer says why.
        """
        return self._run(self._flows.frame_transfer(self._deadline_s()))

    def detect(
        self,
        source: PictureSource,
        *,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
        timeout_s: float | None = None,
    ) -> Detections:
        """Detect in one picture.

        Args:
            source: a path, an encoded picture, BGR pixels uint8 ``(h, w, 3)``, or a PIL image.
            score_threshold: least score, 0 to 1; None is the card's.
            iou_threshold: most overlap of two boxes of a class, 0 to 1; None is the card's.
            max_detections: most detections; None is the card's.
            timeout_s: how long the request may take, retries included; None is the client's.

        Raises:
            SourceError: the source cannot be read on this side.
            RequestRejected: a threshold is out of range, or the server cannot decode the picture.
        """
        limits = self._limits(score_threshold, iou_threshold, max_detections, timeout_s)
        return self._run(self._flows.detect(source, limits))

    def detect_batch(
        self,
        sources: Sequence[PictureSource],
        *,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
        timeout_s: float | None = None,
    ) -> list[Outcome]:
        """Detect in pictures that travel together: one request for as many as the model takes at once.

        Returns one outcome for each source, in their order; one that fails does not fail the others. The
        arguments are as in :meth:`detect`, ``timeout_s`` for each request by itself.

        Raises:
            RequestRejected: a threshold is out of range (at once, before any picture).
            InferenceError: the card cannot be had.
        """
        limits = self._limits(score_threshold, iou_threshold, max_detections, timeout_s)
        batches = self._run(self._flows.batches(sources, self._deadline_s()))
        return [
            outcome
            for indices in batches
            for outcome in self._run(self._flows.batch(indices, sources, limits))
        ]

    def detect_stream(
        self,
        sources: Iterable[PictureSource],
        *,
        window: int = DEFAULT_WINDOW,
        ordered: bool = True,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[Outcome]:
        """Detect in many pictures with ``window`` requests under way at a time.

        Yields one :class:`Outcome` for each source, one that fails included: in order, or with
        ``ordered=False`` as they are completed. ``sources`` is read by the thread that reads the outcomes,
        never further than ``window`` ahead of what has been yielded; when it raises, the outcomes under way
        come first. Closing the generator, or leaving a loop over it, cancels what is under way and ends its
        threads. The server is told of it over gRPC only; a picture that its pipeline has taken is finished
        there all the same, unless its ``timeout_s`` is over before a thread is free for it. The other
        arguments are as in :meth:`detect`, ``timeout_s`` for each picture by itself.

        Raises:
            RequestRejected: a threshold is out of range (at once, before any picture).
            InferenceError: the card cannot be had (at once).
        """
        checked_window(window)
        limits = self._limits(score_threshold, iou_threshold, max_detections, timeout_s)
        self.card()

        def outcome_of(index: int, source: PictureSource, cancellation: Cancellation) -> Outcome:
            return self._run(self._flows.outcome(index, source, limits), cancellation)

        return stream(outcome_of, sources, window=window, ordered=ordered)

    def _run(self, flow: Flow[_Result], cancellation: Cancellation | None = None) -> _Result:
        try:
            step = next(flow)
            while True:
                try:
                    answer = self._answer(step, cancellation)
                except DetserveError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(answer)
        except StopIteration as end:
            result: _Result = end.value
            return result
        finally:
            flow.close()

    def _answer(self, step: Step, cancellation: Cancellation | None) -> Any:
        if cancellation is not None:
            cancellation.check()
        match step:
            case Infer(request, timeout_s):
                if cancellation is None:
                    return self._transport.infer(request, timeout_s)
                return self._transport.infer(request, timeout_s, cancellation)
            case Work(function):
                return function()
            case FetchConfig(model, timeout_s):
                return self._transport.model_config(model, timeout_s)
            case ListRegions(timeout_s):
                return self._transport.shared_regions(timeout_s)
            case RegisterRegion(name, key, size_bytes, timeout_s):
                return self._transport.register_region(name, key, size_bytes, timeout_s)
            case UnregisterRegion(name, timeout_s):
                return self._transport.unregister_region(name, timeout_s)
            case Pause(seconds):
                return time.sleep(seconds) if cancellation is None else cancellation.pause(seconds)
