"""What every format is written from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from detserve_core.detections import Detections
from detserve_rest.pictures.reading import Picture


@dataclass(frozen=True)
class Found:
    """Detections in a picture.

    Attributes:
        wh: width and height of the upright picture, in pixels.
        timings_ms: milliseconds of each stage so far.
    """

    detections: Detections
    picture: Picture
    wh: tuple[int, int]
    timings_ms: Mapping[str, float] = field(default_factory=dict)


class Format(NamedTuple):
    """A format. ``slow`` ones take milliseconds and are written in a thread."""

    media_type: str
    write: Callable[[Found], bytes]
    slow: bool = False
