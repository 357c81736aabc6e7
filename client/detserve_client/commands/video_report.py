"""What ``detserve detect`` says about a video: progress, failures, a summary."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

from detserve_client import Outcome
from detserve_client.shared_memory.frames import FrameTransfer
from detserve_client.video.frames import Frame

_LATENCIES = 10_000


class Totals(Protocol):
    """What a video knows about itself at the end."""

    dropped: int
    reconnects: int


class FrameProgress:
    """A progress bar on stderr with frames per second, and sentences above it."""

    def __init__(self, name: str) -> None:
        self._console = Console(stderr=True, emoji=False)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn(escape(name)),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.1f} frames/s"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._started_s = 0.0
        self._frames = 0
        self._failure = ""

    @contextmanager
    def running(self, total: int | None) -> Iterator[None]:
        """Show the bar while the block runs; ``total`` frames are expected."""
        self._started_s = time.perf_counter()
        self._task = self._progress.add_task("", total=total, rate=0.0)
        with self._progress:
            yield

    def count(self, frame: Frame, outcome: Outcome) -> None:
        """One more frame is done; a failure is said unless it is the last frame's."""
        self._frames += 1
        rate = self._frames / (time.perf_counter() - self._started_s)
        self._progress.update(self._task, completed=self._frames, rate=rate)
        failure = "" if outcome.error is None else str(outcome.error)
        if failure and failure != self._failure:
            self.say(f"frame {frame.index} failed: {failure}")
        self._failure = failure

    def say(self, sentence: str) -> None:
        """Print a sentence on stderr."""
        self._console.print(escape(sentence), soft_wrap=True, highlight=False)


class VideoSummary:
    """Counts for the line at the end."""

    def __init__(self) -> None:
        self.failed = 0
        self._frames = 0
        self._detections = 0
        self._track_ids: set[int] | None = None
        self._latencies_s: deque[float] = deque(maxlen=_LATENCIES)
        self._started_s = time.perf_counter()

    def count(self, outcome: Outcome, latency_s: float) -> None:
        """One more frame, ``latency_s`` after it was decoded."""
        self._frames += 1
        self.failed += not outcome.ok
        self._detections += len(outcome.detections or ())
        self._latencies_s.append(latency_s)
        if outcome.ok and (track_ids := outcome.detections.track_ids) is not None:
            self._track_ids = (self._track_ids or set()) | {each for each in track_ids if each is not None}

    def print(self, video: Totals, transfer: FrameTransfer, written: Sequence[Path]) -> None:
        """Print the summary and what was written on stdout."""
        elapsed_s = time.perf_counter() - self._started_s
        parts = [f"frames {self._frames}", f"detections {self._detections}"]
        if self._track_ids is not None:
            parts.append(f"tracks {len(self._track_ids)}")
        parts += [f"failed {self.failed}", f"dropped {video.dropped}"]
        if video.reconnects:
            parts.append(f"reconnected {video.reconnects}")
        line = f"{', '.join(parts)}, in {elapsed_s:.2f} s ({self._frames / elapsed_s:.1f} frames/s"
        if self._latencies_s:
            line += f", median latency {median(self._latencies_s) * 1000:.0f} ms"
        console = Console(emoji=False)
        console.print(f"{line})", highlight=False, soft_wrap=True)
        by = "by shared memory" if transfer.kind == "shared_memory" else f"as JPEG: {transfer.reason}"
        console.print(f"frames travelled {escape(by)}", highlight=False, soft_wrap=True)
        for path in written:
            console.print(f"wrote {escape(str(path))}", highlight=False, soft_wrap=True)
