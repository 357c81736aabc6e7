"""The same object keeps its number from frame to frame: ByteTrack, by supervision."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np

from detserve_core.detections import Detections
from detserve_core.errors import MissingExtra


class Tracker:
    """Gives track ids to the detections of one video; an object may be out of sight for about a second.

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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self._tracker = ByteTrack(frame_rate=max(1, round(fps)))

    def tracked(self, detections: Detections) -> Detections:
        """Those of the next frame with their track ids, from 1; None for one that is in no track."""
        rows = detections.to_supervision()
        rows.data = {"row": np.arange(len(detections))}
        tracked = self._tracker.update_with_detections(rows)
        ids: list[int | None] = [None] * len(detections)
        if len(tracked) and tracked.tracker_id is not None:
            for row, track_id in zip(tracked.data["row"], tracked.tracker_id, strict=True):
                ids[int(row)] = int(track_id)
        return replace(detections, track_ids=tuple(ids))
