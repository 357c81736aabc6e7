"""The client for threads: pictures in, detections out."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from detserve_client.engine.base_client import (
    DEFAULT_TIMEOUT_S,
    DEFAULT_URL,
    DEFAULT_WINDOW,
    BaseClient,
    checked_window,
)
from detserve_client.engine.cancellation import Cancellation
from detserve_client.engine.flow_steps import (
    AskReady,
    FetchConfig,
    Flow,
    Infer,
    ListModels,
    ListRegions,
    Pause,
    RegisterRegion,
    Step,
    UnregisterRegion,
    Work,
)
from detserve_client.engine.streams import stream
from detserve_client.pictures.encoding import PictureSource, from_rgb
from detserve_client.pictures.one_or_several import one_or_several
from detserve_client.results.outcomes import Outcome, of_several
from detserve_client.shared_memory.frames import FrameTransfer
from detserve_client.transports.base import Transport
from detserve_core.card import Card
from detserve_core.detections import Detections
from detserve_core.errors import DetserveError, ServerUnavailable
from detserve_core.security import UNSECURED, Security

if TYPE_CHECKING:
    from detserve_client.video.detection import DetectedFrame
    from detserve_core.datasets.average_precision import AccuracyTable

_Result = TypeVar("_Result")


class Client(BaseClient):
    """Detects objects with one detector of one server. May be used from several threads.

    Usage::

        with Client("localhost:8001", "codes") as client:
            for detection in client.detect("desk.jpg").above(0.5):
                print(detection.label, detection.score, detection.box_px)

    Every method raises an :class:`~detserve_core.errors.InferenceError` when the server, or the way to it,
    fails. A server that cannot be reached is tried again: one that has answered before for the whole timeout,
    so that a restart loses nothing, one that never did for less than a second. So is a model that the server
    no longer knows though it is ready, as while its version is exchanged, for at most 8 s. Nothing else is
    tried again.

    A client that was made before a fork (gunicorn ``--preload``, a DataLoader) may be used in the children:
    its shared memory, connections and retries are made anew there. gRPC itself forks within limits, see
    ``GRPC_ENABLE_FORK_SUPPORT``; where a child hangs, make the client in the child or use HTTP.

    Args:
        url: where the server listens: ``grpc://HOST:PORT`` or ``http://HOST:PORT``; ``HOST:PORT`` alone is
            gRPC, or HTTP where the port is 8000.
        model: name of the detector; None is the only one that the server has.
        timeout_s: how long one request may take, retries included.
        transport: another way to the server than the one ``url`` names, e.g. a
            :class:`~detserve_client.transports.FakeTransport`. The client closes it.
        security: what a gateway wants to see, over ``grpcs://`` or ``https://``.

    Raises:
        EndpointError: ``url`` is not an address of a server, or has no TLS where ``security`` needs it.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        model: str | None = None,
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
            if not self.model:
                self.card()
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

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names of the detector, asked for once and kept."""
        return tuple(self.card().labels)

    def models(self) -> list[str]:
        """The names of the detectors that the server has ready, in alphabetical order.

        Raises:
            AccessDenied: a gateway does not list them.
        """
        return self._run(self._flows.detectors(self._deadline_s()))

    def frame_transfer(self) -> FrameTransfer:
        """How frames, BGR pixels in numpy arrays, travel to this server.

        By shared memory, as they are, when the server is on this host and allows it; else as JPEG, and the
        answer says why.
        """
        return self._run(self._flows.frame_transfer(self._deadline_s()))

    @overload
    def detect(  # type: ignore[overload-overlap]
        self,
        source: PictureSource,
        *,
        rgb: bool = False,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
        timeout_s: float | None = None,
    ) -> Detections: ...
    @overload
    def detect(
        self,
        source: Iterable[PictureSource],
        *,
        rgb: bool = False,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
        timeout_s: float | None = None,
    ) -> list[Detections]: ...
    def detect(
        self,
        source: PictureSource | Iterable[PictureSource],
        *,
        rgb: bool = False,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
        timeout_s: float | None = None,
    ) -> Detections | list[Detections]:
        """Detect in one picture, or in several: a list, or a folder, which is searched through.

        Several travel with 8 requests in flight at a time; to go on after one that fails, use
        :meth:`detect_stream`. Files go to the server as they are. Pixels and PIL images become a
        JPEG, unless they travel by shared memory, so scores may differ by some thousandths. A PIL
        image is taken as its pixels are: ``ImageOps.exif_transpose`` turns one upright that a camera
        has tagged. A type checker cannot tell a folder's path from a picture's; for it, say
        ``detect(Path(folder).glob("*.jpg"))``.

        Args:
            source: a path, an http(s) URL, an encoded picture, a file opened for reading bytes, BGR pixels
                uint8 ``(h, w, 3)`` as ``cv2.imread`` gives them, or a PIL image; or several of these.
            rgb: the pixels of arrays are in RGB, not BGR.
            score_threshold: least score, 0 to 1; None is the card's.
            iou_threshold: most overlap of two boxes of a class, 0 to 1; None is the card's.
            max_detections: most detections; None is the card's.
            timeout_s: how long the request may take, retries included; None is the client's.

        Returns:
            The detections; of several pictures a list of them, in the order of the pictures.

        Raises:
            SourceError: a source cannot be read on this side.
            RequestRejected: a threshold is out of range, or the server cannot decode the picture.
        """
        given = one_or_several(source)
        if not isinstance(given, list):
            limits = self._limits(score_threshold, iou_threshold, max_detections, timeout_s)
            return self._run(self._flows.detect(from_rgb(given) if rgb else given, limits))
        outcomes = self.detect_stream(
            [from_rgb(each) for each in given] if rgb else given,
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            max_detections=max_detections,
            timeout_s=timeout_s,
        )
        with closing(outcomes):
            return [of_several(outcome) for outcome in outcomes]

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
    ) -> Generator[Outcome, None, None]:
        """Detect in many pictures with ``window`` requests in flight at a time.

        Yields one :class:`Outcome` for each source, one that fails included: in order, or with
        ``ordered=False`` as they are completed. ``sources`` is read by the thread that reads the outcomes,
        never further than ``window`` ahead of what has been yielded; when it raises, the outcomes in flight
        come first. Closing the generator, or leaving a loop over it, cancels what is in flight and ends its
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

    def video(
        self,
        source: str | Path | int,
        *,
        track: bool = False,
        window: int = DEFAULT_WINDOW,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        max_detections: int | None = None,
    ) -> Iterator[DetectedFrame]:
        """Detect in every frame of a video file, or in the latest frame of a camera or stream.

        Leaving the loop closes the video.

        Args:
            source: a video file, a camera's number, or ``rtsp://...``.
            track: give each object an id that it keeps, by ByteTrack: ``frame.detections.track_ids``.
            window: how many frames of a file are in flight at a time; one of a live source.
            score_threshold: least score, 0 to 1; None is the card's.
            iou_threshold: most overlap of two boxes of a class, 0 to 1; None is the card's.
            max_detections: most detections in a frame; None is the card's.

        Raises:
            SourceError: there is no such video, it cannot be read, or it breaks off.
            MissingExtra: PyAV, OpenCV or supervision is not installed.
            InferenceError: a frame failed.
        """
        from detserve_client.video.detection import detected_frames

        thresholds = {
            "score_threshold": score_threshold,
            "iou_threshold": iou_threshold,
            "max_detections": max_detections,
        }
        return detected_frames(self, source, track=track, window=window, thresholds=thresholds)

    def evaluate(
        self,
        annotations: str | Path,
        pictures: str | Path | None = None,
        *,
        iou_threshold: float | None = None,
    ) -> AccuracyTable:
        """Send annotated pictures to the server and score what comes back as COCO does.

        Args:
            annotations: a COCO json file; a YOLO dataset's ``data.yaml`` or folder; a Pascal VOC folder.
            pictures: the folder of the pictures; None is where the format has them.
            iou_threshold: of the detector's NMS; None is the card's.

        Returns:
            ``ap``, ``ap50``, ``ap75``, 0 to 1 and None where nothing is annotated, and each size's and
            class's.

        Raises:
            DatasetError: the annotations are not readable, or share no class with the detector.
            SourceError, InferenceError: a picture failed, so nothing is scored.
        """
        from detserve_client.evaluation import evaluated

        return evaluated(self, Path(annotations), pictures, iou_threshold)

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
            case ListModels(timeout_s):
                return self._transport.models(timeout_s)
            case AskReady(timeout_s):
                return self._transport.server_ready(timeout_s)
            case ListRegions(timeout_s):
                return self._transport.shared_regions(timeout_s)
            case RegisterRegion(name, key, size_bytes, timeout_s):
                return self._transport.register_region(name, key, size_bytes, timeout_s)
            case UnregisterRegion(name, timeout_s):
                return self._transport.unregister_region(name, timeout_s)
            case Pause(seconds):
                return time.sleep(seconds) if cancellation is None else cancellation.pause(seconds)
