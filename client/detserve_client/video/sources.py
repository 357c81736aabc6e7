"""From what a user names on the command line to the video meant: a file, a camera or a stream."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from detserve_core.errors import SourceError

VIDEO_SUFFIXES = (
    *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg"),
    *(".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"),
)
_STREAM_SCHEMES = ("rtsp://", "rtsps://")


@dataclass(frozen=True)
class VideoSource:
    """A video: the ``path`` of a file, the number of a camera, or the address of a stream."""

    kind: Literal["file", "camera", "stream"]
    address: str

    @property
    def live(self) -> bool:
        """Whether frames come when the camera sends them, not when they are asked for."""
        return self.kind != "file"

    def __str__(self) -> str:
        """What to call it before a user; a stream's password is left out."""
        if self.kind == "camera":
            return f"camera {self.address}"
        return _without_password(self.address) if self.kind == "stream" else self.address

    def output_name(self) -> str:
        """The name of its annotated video. A recording of a live source carries its local date and time."""
        if self.kind == "file":
            return f"{Path(self.address).stem}.mp4"
        parts = urlsplit(self.address)
        where = f"{parts.hostname or ''}{parts.path}" if self.kind == "stream" else str(self)
        safe = re.sub(r"[^A-Za-z0-9.]+", "-", where).strip("-.")
        return f"{safe}-{time.strftime('%Y%m%d-%H%M%S')}.mp4"


def video_source(sources: Sequence[str]) -> VideoSource | None:
    """The video that ``sources`` name, or None where they name pictures.

    A file or folder of that name comes before a camera number.

    Raises:
        SourceError: a video is named beside other sources, or an address is none of a stream.
    """
    videos = [video for source in sources if (video := _recognised(source)) is not None]
    if not videos:
        return None
    if len(sources) > 1:
        raise SourceError(
            f"{videos[0]} is a video, and {len(sources)} sources were given; expected a video alone"
        )
    return videos[0]


def _recognised(source: str) -> VideoSource | None:
    if source.lower().startswith(_STREAM_SCHEMES):
        return VideoSource("stream", _with_host(source))
    if scheme := re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", source):
        raise SourceError(f"cannot read from {scheme[0]}; expected a file, a camera's number or rtsp://...")
    path = Path(source)
    if path.is_char_device() and (number := re.fullmatch(r"/dev/video(\d+)", source)):
        return VideoSource("camera", number[1])
    if path.is_dir():
        return None
    if path.suffix.lower() in VIDEO_SUFFIXES and (path.exists() or not glob_like(source)):
        return VideoSource("file", source)
    if source.isascii() and source.isdigit() and not path.exists():
        return VideoSource("camera", str(int(source)))
    return None


def glob_like(source: str) -> bool:
    """Whether the shell's pattern characters are in it."""
    return any(character in source for character in "*?[")


def _with_host(address: str) -> str:
    try:
        host, _ = urlsplit(address).hostname, urlsplit(address).port
    except ValueError:
        host = None
    if not host:
        raise SourceError(f"cannot read the stream address {address!r}; expected rtsp://HOST[:PORT]/PATH")
    return address


def _without_password(address: str) -> str:
    parts = urlsplit(address)
    if parts.password is None:
        return address
    user, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user.split(':')[0]}:***@{host}").geturl()
