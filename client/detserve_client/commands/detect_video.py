"""``detserve detect`` on a video: a file, a camera or a stream."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

from detserve_client import (
    AccessDenied,
    Client,
    ModelNotFound,
    Outcome,
    OutputError,
    ServerUnavailable,
)
from detserve_client.commands.signals import told_to_stop
from detserve_client.commands.video_report import FrameProgress, VideoSummary
from detserve_client.video.container import Container
from detserve_client.video.detection import Feed, detected, opened
from detserve_client.video.frames import Frame
from detserve_client.video.lines import frame_line, lines_file
from detserve_client.video.live import LatestFrames
from detserve_client.video.sources import VideoSource
from detserve_client.video.tracking import Tracker
from detserve_client.video.window import Rate, Window, with_status
from detserve_client.video.writer import VideoWriter, video_writer
from detserve_core.pictures.drawing import annotated, require_drawing

INTERRUPTED = 130
_END_OF_A_FILE = (ServerUnavailable, ModelNotFound, AccessDenied)


@dataclass(frozen=True)
class VideoOptions:
    """What a user asked for: a folder of videos, a file of JSON Lines, a window, track ids, the request's."""

    save: Path | None
    json: Path | None
    show: bool
    track: bool
    window: int
    thresholds: dict[str, Any]


def detect_video(client: Client, source: VideoSource, options: VideoOptions) -> int:
    """Detect in every frame of a file, or in the latest frame of a live source until told to stop.

    Whatever the reason that the video ends, what was written is finished and kept.

    Returns:
        The exit status: 1 if a frame failed, 130 if Ctrl-C cut a file short, else 0.

    Raises:
        DetserveError: at once, if the video, the window or an output cannot be opened; at the end, if the
            file is damaged or the server is lost.
    """
    target = _target(source, options.save)
    transfer = client.frame_transfer()
    progress, summary = FrameProgress(str(source)), VideoSummary()
    with ExitStack() as stack:
        stopping = stack.enter_context(told_to_stop())
        window = stack.enter_context(closing(Window(f"{source} - detserve"))) if options.show else None
        video = stack.enter_context(closing(_opened(source, stopping, progress.say, window)))
        sinks = _Sinks(
            window,
            tracker=Tracker(video.fps) if options.track else None,
            append=stack.enter_context(lines_file(options.json)) if options.json else None,
            writer=stack.enter_context(video_writer(target, video.fps)) if target else None,
        )
        feed = Feed(video.frames(), stopping)
        stack.enter_context(progress.running(video.total_frames))
        for frame, outcome in detected(client, feed, source, options.window, options.thresholds):
            progress.count(frame, outcome)
            if not sinks.take(frame, outcome, summary, video.dropped):
                break
            if isinstance(outcome.error, _END_OF_A_FILE) and not source.live:
                feed.failure = type(outcome.error)(f"{source} ended at frame {frame.index}: {outcome.error}")
                break
        cut_short = stopping.is_set() and not source.live
    summary.print(video, transfer, [path for path in (target, options.json) if path and path.exists()])
    if feed.failure is not None:
        raise feed.failure
    return INTERRUPTED if cut_short else int(summary.failed > 0)


def _target(source: VideoSource, save: Path | None) -> Path | None:
    if save is None:
        return None
    require_drawing()
    target = save / source.output_name()
    if source.kind == "file" and target.exists() and target.samefile(source.address):
        raise OutputError(f"--save {save} would overwrite the video {target}; name another folder")
    return target


def _opened(
    source: VideoSource, stopping: Event, say: Callable[[str], None], window: Window | None
) -> Container | LatestFrames:
    def look_at_window() -> None:
        if window is not None and not window.look():
            stopping.set()

    return opened(source, stopping=stopping, say=say, while_waiting=look_at_window)


@dataclass
class _Sinks:
    """Where each frame goes."""

    window: Window | None
    tracker: Tracker | None
    append: Callable[[str], None] | None
    writer: VideoWriter | None

    def __post_init__(self) -> None:
        self._rate = Rate()

    def take(self, frame: Frame, outcome: Outcome, summary: VideoSummary, dropped: int) -> bool:
        """Track, write and show one frame; False when the user has closed the window."""
        if outcome.ok and self.tracker is not None:
            outcome = replace(outcome, detections=self.tracker.tracked(outcome.detections))
        if self.append is not None:
            self.append(frame_line(frame, outcome))
        drawn = frame.pixels
        if outcome.ok and (self.writer is not None or self.window is not None):
            drawn = annotated(frame.pixels, outcome.detections)
        if self.writer is not None:
            self.writer.write(drawn, frame.time_s)
        now_s = time.perf_counter()
        summary.count(outcome, now_s - frame.taken_s)
        if self.window is None:
            return True
        status = f"{self._rate.count(now_s):.1f} frames/s  {(now_s - frame.taken_s) * 1000:.0f} ms"
        return self.window.show(with_status(drawn, f"{status}  {dropped} dropped" if dropped else status))
