"""The same object keeps its number from frame to frame: a ByteTrack, by supervision, for each class."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from detserve_core.detections import Detections
from detserve_core.errors import MissingExtra


class Tracker:
    """Gives track ids to the detections of one video; an object may be out of sight for about a second.

    A track has one class: a motorcycle where a person was is a new one.

    supervision recommends the package ``trackers`` in its place, which needs NumPy 2, and Triton's embedded
    server needs NumPy 1; hence the upper bound on supervision.

    Args:
        fps: frames per second of the video.

    Raises:
        MissingExtra: there is no supervision, or one that has no ByteTrack any more.
    """

    def __init__(self, fps: float) -> None:
        try:
            from supervision import ByteTrack
        except ImportError:
            raise MissingExtra("supervision<0.31", "video") from None
        self._new_tracker: Callable[[], Any] = partial(ByteTrack, frame_rate=max(1, round(fps)))
        self._trackers: dict[int, Any] = {}
        self._ids: dict[tuple[int, int], int] = {}
        self._is_first = True

    def tracked(self, detections: Detections) -> Detections:
        """Those of the next frame with their track ids, from 1; None for one that is in no track."""
        rows = detections.to_supervision()
        rows.data = {"row": np.arange(len(detections))}
        ids: list[int | None] = [None] * len(detections)
        for number in sorted({*self._trackers, *detections.classes.tolist()}):
            tracked = self._tracker_of(number).update_with_detections(rows[detections.classes == number])
            if not len(tracked) or tracked.tracker_id is None:
                continue
            for track, row in sorted(zip(tracked.tracker_id.tolist(), tracked.data["row"], strict=True)):
                ids[int(row)] = self._ids.setdefault((number, track), len(self._ids) + 1)
        self._is_first = False
        return replace(detections, track_ids=tuple(ids))

    def _tracker_of(self, number: int) -> Any:
        """Of a class that comes later, one whose first frame has passed: there ByteTrack believes all."""
        if number not in self._trackers:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                tracker = self._trackers[number] = self._new_tracker()
            if not self._is_first:
                tracker.update_with_detections(Detections.empty(()).to_supervision())
        return self._trackers[number]
