"""Detections in the frames of a video."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detserve_client.results.outcomes import Outcome, of_several
from detserve_client.video.camera import Camera
from detserve_client.video.container import Container
from detserve_client.video.frames import Frame
from detserve_client.video.live import LatestFrames
from detserve_client.video.sources import VideoSource, video_source
from detserve_client.video.tracking import Tracker
from detserve_core.detections import Detections
from detserve_core.errors import DetserveError, SourceError

if TYPE_CHECKING:
    from detserve_client.client import Client

_LIVE_TIMEOUT_S = 5.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class DetectedFrame:
    """A frame of a video and what was found in it.

    Attributes:
        index: its number in the source, from 0; numbers of dropped frames are missing.
        time_s: seconds after the first frame.
        pixels: BGR uint8 ``(h, w, 3)``, upright.
        detections: with ``track_ids`` where the video is tracked.
    """

    index: int
    time_s: float
    pixels: NDArray[np.uint8]
    detections: Detections


class Feed:
    """Hands frames to the client, remembers those in flight, and how the video ended."""

    def __init__(self, frames: Iterator[Frame], stopping: Event) -> None:
        self._frames, self._stopping = frames, stopping
        self.in_flight: deque[Frame] = deque()
        self.failure: DetserveError | None = None

    def pixels(self) -> Iterator[NDArray[np.uint8]]:
        """The pixels of each frame, until the video ends, breaks off or is to stop."""
        try:
            for frame in self._frames:
                if self._stopping.is_set():
                    return
                self.in_flight.append(frame)
                yield frame.pixels
        except SourceError as error:
            self.failure = error


def opened(
    source: VideoSource,
    *,
    stopping: Event,
    say: Callable[[str], None],
    while_waiting: Callable[[], None] = lambda: None,
) -> Container | LatestFrames:
    """The open video; see :class:`~detserve_client.video.live.LatestFrames` for a live one's arguments.

    Raises:
        SourceError: it cannot be opened.
    """
    if not source.live:
        return Container(source)
    return LatestFrames(
        lambda: Camera(source) if source.kind == "camera" else Container(source),
        say=say,
        stopping=stopping,
        while_waiting=while_waiting,
    )


def detected(
    client: Client, feed: Feed, source: VideoSource, window: int, thresholds: Mapping[str, Any]
) -> Generator[tuple[Frame, Outcome], None, None]:
    """Each frame with its outcome, in order; of a live source one at a time, so that none grows old."""
    outcomes = client.detect_stream(
        feed.pixels(),
        window=1 if source.live else window,
        timeout_s=_LIVE_TIMEOUT_S if source.live else None,
        **thresholds,
    )
    with closing(outcomes):
        for outcome in outcomes:
            yield feed.in_flight.popleft(), outcome


def detected_frames(
    client: Client, source: str | Path | int, *, track: bool, window: int, thresholds: Mapping[str, Any]
) -> Iterator[DetectedFrame]:
    """The frames of a video with their detections; see :meth:`detserve_client.Client.video`."""
    named = video_source([str(source)])
    if named is None:
        raise SourceError(f"{source} is not a video; expected a video file, a camera's number or rtsp://...")
    stopping = Event()
    with closing(opened(named, stopping=stopping, say=_log.warning)) as video:
        tracker = Tracker(video.fps) if track else None
        feed = Feed(video.frames(), stopping)
        with closing(detected(client, feed, named, window, thresholds)) as frames:
            for frame, outcome in frames:
                found = of_several(outcome, "frame", frame.index)
                if tracker is not None:
                    found = tracker.tracked(found)
                yield DetectedFrame(frame.index, frame.time_s, frame.pixels, found)
        if feed.failure is not None:
            raise feed.failure
