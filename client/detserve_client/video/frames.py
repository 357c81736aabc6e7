"""What every video gives: frames with their place in time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a video.

    Attributes:
        index: its number in the source, from 0; numbers of dropped frames are missing.
        time_s: seconds after the first frame.
        pixels: BGR uint8 ``(h, w, 3)``, upright.
        taken_s: when it was decoded, by ``time.perf_counter``.
    """

    index: int
    time_s: float
    pixels: NDArray[np.uint8]
    taken_s: float


class VideoInput(Protocol):
    """An open video."""

    fps: float

    def frames(self) -> Iterator[Frame]:
        """Every frame in order.

        Raises:
            SourceError: after the last frame that can be read, where that is not the end of the video.
        """

    def close(self) -> None:
        """Let go of the file, the camera or the connection."""
