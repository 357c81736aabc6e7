"""The client: pictures in, detections out."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

from detserve_client.card import Card
from detserve_client.detections import Detections
from detserve_client.endpoint import Endpoint
from detserve_client.errors import InferenceError, ServerUnavailable, SourceError
from detserve_client.pictures import PictureSource, encoded_picture
from detserve_client.retries import pauses_s
from detserve_client.security import UNSECURED, Security
from detserve_client.transports.base import Transport
from detserve_client.wire import DetectionRequest, card_of, decode, request_parameters

_Answer = TypeVar("_Answer")

DEFAULT_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Outcome:
    """What became of one source: either ``detections`` or ``error`` is set.

    ``latency_s`` is the time from taking the source in hand to its detections, reading and encoding included.
    """

    source: PictureSource
    detections: Detections | None = None
    error: InferenceError | SourceError | None = None
    latency_s: float | None = None

    def get(self) -> Detections:
        """The detections; raises ``error`` if there are none."""
        if self.detections is None:
            raise self.error or ValueError("an outcome has detections or an error; this one has neither")
        return self.detections


class DetectionClient:
    """Detects objects with one model of one server. May be used from several threads.

    Usage::

        with DetectionClient("grpc://localhost:8001", "codes") as client:
            for detection in client.detect("desk.jpg").above(0.5):
                print(detection.label, detection.score, detection.box_px)

    Every method raises an :class:`~detserve_client.errors.InferenceError` when the server, or the way to it,
    fails.
    A server that cannot be reached is tried four times within the timeout; nothing else is tried again.

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
        self.endpoint = Endpoint.parse(url).secured(security)
        self.model = model
        self.timeout_s = _positive(timeout_s)
        if transport is None:
            from detserve_client.transports import transport_to

            transport = transport_to(self.endpoint)
        self._transport = transport
        self._card: Card | None = None

    def __enter__(self) -> DetectionClient:
        """Return the client itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the client."""
        self.close()

    def close(self) -> None:
        """Close the connections; the client cannot be used afterwards."""
        self._transport.close()

    def ready(self) -> bool:
        """Whether the server is there and the model takes requests. Makes one attempt."""
        try:
            return self._transport.ready(self.model, self.timeout_s)
        except ServerUnavailable:
            return False

    def card(self) -> Card:
        """The detector's card, asked for once and kept.

        Raises:
            ContractViolation: the model has no card.
        """
        return self._card_before(time.monotonic() + self.timeout_s)

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
        parameters = request_parameters(score_threshold, iou_threshold, max_detections)
        timeout_s = self.timeout_s if timeout_s is None else _positive(timeout_s)
        return self._detect(source, parameters, timeout_s)

    def detect_many(
        self,
        sources: Iterable[PictureSource],
        *,
        window: int = 8,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[Outcome]:
        """Detect in many pictures, in order, with ``window`` of them under way at a time.

        A source that fails yields an :class:`Outcome` with its error; the others go on. At most twice
        ``window`` sources are taken from ``sources`` ahead of what has been yielded. The other arguments are
        as in :meth:`detect`, ``timeout_s`` for each picture by itself.

        Raises:
            RequestRejected: a threshold is out of range (at once, before any picture).
            InferenceError: the card cannot be had (at once).
        """
        if window < 1:
            raise ValueError(f"window is {window}; expected 1 or more")
        parameters = request_parameters(score_threshold, iou_threshold, max_detections)
        limit_s = self.timeout_s if timeout_s is None else _positive(timeout_s)
        self.card()

        def outcome_of(source: PictureSource) -> Outcome:
            started_s = time.perf_counter()
            try:
                detections = self._detect(source, parameters, limit_s)
                return Outcome(source, detections, latency_s=time.perf_counter() - started_s)
            except (InferenceError, SourceError) as error:
                return Outcome(source, error=error)

        return _in_order(outcome_of, sources, window)

    def _detect(
        self, source: PictureSource, parameters: dict[str, float | int], timeout_s: float
    ) -> Detections:
        request = DetectionRequest(self.model, encoded_picture(source), parameters)
        deadline_s = time.monotonic() + timeout_s
        labels = tuple(self._card_before(deadline_s).labels)
        outputs = _with_retries(lambda left_s: self._transport.infer(request, left_s), deadline_s)
        return decode(outputs, model=self.model, labels=labels)

    def _card_before(self, deadline_s: float) -> Card:
        if self._card is None:
            config = _with_retries(
                lambda left_s: self._transport.model_config(self.model, left_s), deadline_s
            )
            self._card = card_of(config, self.model)
        return self._card


def _with_retries(call: Callable[[float], _Answer], deadline_s: float) -> _Answer:
    """Call with the seconds left; ``deadline_s`` is a time of ``time.monotonic``."""
    for pause_s in pauses_s():
        try:
            return call(_left_s(deadline_s))
        except ServerUnavailable:
            if time.monotonic() + pause_s >= deadline_s:
                raise
            time.sleep(pause_s)
    return call(_left_s(deadline_s))


def _left_s(deadline_s: float) -> float:
    return max(deadline_s - time.monotonic(), 0.001)


def _in_order(
    outcome_of: Callable[[PictureSource], Outcome], sources: Iterable[PictureSource], window: int
) -> Iterator[Outcome]:
    """As many threads as the window, and as many sources waiting so that no thread waits for the consumer."""
    pool = ThreadPoolExecutor(window, thread_name_prefix="detserve-client")
    taken: deque[Future[Outcome]] = deque()
    try:
        for source in sources:
            if len(taken) == 2 * window:
                yield taken.popleft().result()
            taken.append(pool.submit(outcome_of, source))
        while taken:
            yield taken.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _positive(timeout_s: float) -> float:
    if not timeout_s > 0:
        raise ValueError(f"timeout_s is {timeout_s}; expected more than 0 seconds")
    return timeout_s
