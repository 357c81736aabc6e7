"""Videos that FFmpeg reads, through PyAV: files and streams."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from detserve_client.video.frames import Frame
from detserve_client.video.sources import VideoSource
from detserve_core.errors import MissingExtra, SourceError
from detserve_core.pictures.upright import orientation_of_matrix, upright

if TYPE_CHECKING:
    import av.container

CONNECT_TIMEOUT_S = 10.0
SILENCE_TIMEOUT_S = 10.0

_STREAM_OPTIONS = {"rtsp_flags": "prefer_tcp", "fflags": "nobuffer"}
_MOST_FPS = 120.0
"""A header's rate above this may be that of its clock: a browser's recorder writes 1000."""
_ASSUMED_FPS = 25.0
_MEASURED_PACKETS = 100
_MISSING_S = 0.5
"""An end earlier than this before what the file's header says is a file cut off."""


class Container:
    """An open video file or stream.

    Attributes:
        fps: frames per second, on average; 25 where nothing says.
        total_frames: how many frames the file's header promises; None where it does not say.
        dropped: 0; a file loses none.
        reconnects: 0.

    Raises:
        SourceError: it cannot be opened or has no video.
        MissingExtra: PyAV is not installed.
    """

    def __init__(self, source: VideoSource) -> None:
        self._source = source
        self._container = _open_stream(source) if source.live else _open_file(source)
        stream = _film(self._container)
        if stream is None:
            self._container.close()
            raise SourceError(f"{source} has no video")
        self._stream = stream
        self._stream.thread_type = "SLICE" if source.live else "AUTO"
        self.fps = _frames_per_s(source, stream)
        self.dropped = self.reconnects = 0
        self._duration_s = None if source.live else self._promised_s()
        self.total_frames = self._stream.frames or (
            None if self._duration_s is None else round(self._duration_s * self.fps)
        )

    def close(self) -> None:
        """Close the file or the connection."""
        self._container.close()

    def frames(self) -> Iterator[Frame]:
        """Every frame that can be decoded, in order, turned and mirrored as the file's display matrix says.

        Raises:
            SourceError: at the end, if a file is damaged or cut off; a stream always ends so.
        """
        index, first_s, end_s, broken = 0, 0.0, 0.0, 0
        for frame, intact in self._decoded():
            broken += not intact
            if frame is None:
                continue
            at_s = index / self.fps if frame.time is None else frame.time
            first_s = at_s if index == 0 else first_s
            yield Frame(index, at_s - first_s, _upright_bgr(frame), time.perf_counter())
            index += 1
            end_s = at_s - first_s + float((frame.duration or 0) * (frame.time_base or 0))
        self._require_whole(index, end_s, broken)

    def _decoded(self) -> Iterator[tuple[Any, bool]]:
        """Frames; and for each packet that is broken ``None, False``."""
        import av

        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.FFmpegError as error:
                if self._source.live:
                    raise SourceError(f"{self._source} broke off: {_reason(error)}") from None
                yield None, False
                return
            if packet.is_corrupt and not self._source.live:
                yield None, False
            try:
                frames = packet.decode()
            except av.FFmpegError:
                frames = []
                if not packet.is_corrupt:
                    yield None, self._source.live
            for frame in frames:
                yield frame, True

    def _require_whole(self, frames: int, end_s: float, broken: int) -> None:
        if self._source.live:
            raise SourceError(f"{self._source} has ended")
        if frames == 0:
            raise SourceError(f"{self._source} has no frame that can be decoded")
        if self._duration_s is not None and self._duration_s - end_s > _MISSING_S:
            of = f" of {self.total_frames}" if self.total_frames else ""
            raise SourceError(
                f"{self._source} is cut off or damaged: it ends after frame {frames - 1}{of}, at "
                f"{end_s:.2f} s, and should go on to {self._duration_s:.2f} s"
            )
        if broken:
            raise SourceError(
                f"{self._source} is damaged: {broken} of its packets cannot be decoded; "
                f"the last frame that can be is frame {frames - 1}"
            )

    def _promised_s(self) -> float | None:
        """How long the header says it lasts; Matroska's and WebM's is that from 0 to the last frame's end."""
        if self._stream.duration is not None and self._stream.time_base is not None:
            return float(self._stream.duration * self._stream.time_base)
        if self._container.duration is not None and len(self._container.streams) == 1:
            begin_us = (self._container.start_time or 0) if "matroska" in self._container.format.name else 0
            return (self._container.duration - begin_us) / 1_000_000
        return None


def _open_file(source: VideoSource) -> av.container.InputContainer:
    av = _av()
    path = Path(source.address)
    try:
        if path.is_file() and path.stat().st_size == 0:
            raise SourceError(f"{source} is empty; expected a video")
        return av.open(f"file:{path}")  # type: ignore[no-any-return]
    except av.InvalidDataError:
        raise SourceError(
            f"{source} is not a video that can be read here, or was cut off before it was finished"
        ) from None
    except (av.FFmpegError, OSError) as error:
        raise SourceError(f"{source} cannot be read: {_reason(error)}") from None


def _open_stream(source: VideoSource) -> av.container.InputContainer:
    av = _av()
    parts = urlsplit(source.address)
    try:
        socket.getaddrinfo(parts.hostname, parts.port or 554)
    except OSError:
        raise SourceError(f"{source} cannot be opened: there is no host {parts.hostname!r}") from None
    try:
        limits_s = (CONNECT_TIMEOUT_S, SILENCE_TIMEOUT_S)
        return av.open(source.address, options=_STREAM_OPTIONS, timeout=limits_s)  # type: ignore[no-any-return]
    except (av.FFmpegError, OSError) as error:
        raise SourceError(f"{source} cannot be opened: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    import av

    if isinstance(error, av.ExitError):
        return f"no answer within {CONNECT_TIMEOUT_S:.0f} s"
    return getattr(error, "strerror", None) or str(error)


def _film(container: av.container.InputContainer) -> Any:
    """The first video that is not a cover or thumbnails; None where there is none."""
    from av.stream import Disposition

    still = Disposition.attached_pic | Disposition.timed_thumbnails
    return next((stream for stream in container.streams.video if not stream.disposition & still), None)


def _frames_per_s(source: VideoSource, stream: Any) -> float:
    """By the header, or, where that may tell a clock's rate, by the times of a file's first packets."""
    said = float(stream.average_rate or stream.guessed_rate or 0)
    if 0 < said <= _MOST_FPS:
        return said
    return _ASSUMED_FPS if source.live else _measured_fps(source, stream.index)


def _measured_fps(source: VideoSource, index: int) -> float:
    import av

    with _open_file(source) as container:
        times_s = []
        with suppress(av.FFmpegError):
            packets = container.demux(container.streams[index])
            for packet in islice(packets, _MEASURED_PACKETS):
                if packet.pts is not None and packet.time_base is not None:
                    times_s.append(float(packet.pts * packet.time_base))
    span_s = max(times_s, default=0.0) - min(times_s, default=0.0)
    return (len(times_s) - 1) / span_s if span_s > 0 else _ASSUMED_FPS


def _upright_bgr(frame: Any) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = frame.to_ndarray(format="bgr24")
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return pixels
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), np.int32).tolist()
    return upright(pixels, orientation_of_matrix(a, b, c, d))


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise MissingExtra("av", "video") from None
    return av
