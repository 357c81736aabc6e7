"""What became of one picture of many."""

from __future__ import annotations

from dataclasses import dataclass

from detserve_client.pictures.encoding import PictureSource
from detserve_core.detections import Detections
from detserve_core.errors import InferenceError, SourceError


@dataclass(frozen=True)
class Outcome:
    """What became of one source: either ``detections`` or ``error`` is set.

    ``latency_s`` is the time from taking the source in hand to its detections, reading and encoding included;
    for the pictures of a batch that of their common request. ``index`` is the source's place among those
    handed in, from 0.
    """

    source: PictureSource
    detections: Detections | None = None
    error: InferenceError | SourceError | None = None
    latency_s: float | None = None
    index: int = 0

    def get(self) -> Detections:
        """The detections; raises ``error`` if there are none."""
        if self.detections is None:
            raise self.error or ValueError("an outcome has detections or an error; this one has neither")
        return self.detections
