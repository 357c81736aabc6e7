"""Annotated videos: H.264 in MP4, which browsers and players open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detserve_core.errors import MissingExtra, OutputError
from detserve_core.machine.whole_files import blamed_on, whole_file

_CLOCK_HZ = 90_000
_BT709 = 1
_LIMITED_RANGE = 1


class VideoWriter:
    """Writes frames at their times. The size is the first frame's; one of another size is stretched to it."""

    def __init__(self, container: Any, path: Path, fps: float) -> None:
        self._container = container
        self._path = path
        self._fps = Fraction(fps).limit_denominator(1001)
        self._stream: Any = None
        self._last_tick = -1

    def write(self, pixels: NDArray[np.uint8], time_s: float) -> None:
        """Append BGR ``pixels`` ``(h, w, 3)``, ``time_s`` seconds after the start.

        H.264 needs even sides: an odd one grows by a pixel.

        Raises:
            OutputError: the file cannot be written.
        """
        import av

        if self._stream is None:
            self._start(pixels.shape[1], pixels.shape[0])
        frame = av.VideoFrame.from_ndarray(_even(pixels), format="bgr24").reformat(
            width=self._stream.width,
            height=self._stream.height,
            format="yuv420p",
            dst_colorspace="itu709",
            dst_color_range=_LIMITED_RANGE,
        )
        self._last_tick = max(self._last_tick + 1, round(time_s * _CLOCK_HZ))
        frame.pts, frame.time_base = self._last_tick, Fraction(1, _CLOCK_HZ)
        with blamed_on(self._path):
            self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Write what the encoder still holds, and close the file."""
        with blamed_on(self._path):
            if self._stream is not None:
                self._container.mux(self._stream.encode(None))
            self._container.close()

    def _start(self, width: int, height: int) -> None:
        self._stream = self._container.add_stream("libx264", rate=self._fps, options={"preset": "veryfast"})
        self._stream.width, self._stream.height = width + width % 2, height + height % 2
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        context.time_base = Fraction(1, _CLOCK_HZ)
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED_RANGE


@contextmanager
def video_writer(path: Path, fps: float) -> Iterator[VideoWriter]:
    """Open a video for writing; it appears under ``path`` when the block ends well, and not at all otherwise.

    Raises:
        OutputError: the file cannot be written, or this PyAV has no H.264.
        MissingExtra: PyAV is not installed.
    """
    try:
        import av
    except ImportError:
        raise MissingExtra("av", "video") from None
    if "libx264" not in av.codecs_available:
        raise OutputError(f"{path} cannot be written: this PyAV has no libx264; install PyAV from PyPI")
    with whole_file(path) as temporary:
        with blamed_on(path):
            container = av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"})
        writer = VideoWriter(container, path, fps)
        try:
            yield writer
        except BaseException:
            with suppress(OSError):
                container.close()
            raise
        writer.finish()


def _even(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    if height % 2 or width % 2:
        return np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(pixels)
