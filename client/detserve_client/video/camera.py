"""Cameras of this machine, through OpenCV."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from detserve_client.video.frames import Frame
from detserve_client.video.sources import VideoSource
from detserve_core.errors import MissingExtra, SourceError
from detserve_core.pictures.opencv_log import silent_opencv


class Camera:
    """An open camera.

    Attributes:
        fps: frames per second, as the camera says.

    Raises:
        SourceError: there is no such camera, or it cannot be opened.
        MissingExtra: OpenCV is not installed.
    """

    def __init__(self, source: VideoSource) -> None:
        try:
            import cv2
        except ImportError:
            raise MissingExtra("opencv-python", "video") from None
        self._source = source
        with silent_opencv():
            self._capture = cv2.VideoCapture(int(source.address))
        if not self._capture.isOpened():
            raise SourceError(
                f"{source} is not there or cannot be opened; expected the number of a camera, from 0"
            )
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        self.fps = self._capture.get(cv2.CAP_PROP_FPS) or 30.0

    def close(self) -> None:
        """Let go of the camera."""
        self._capture.release()

    def frames(self) -> Iterator[Frame]:
        """Every frame.

        Raises:
            SourceError: the camera sends no more.
        """
        index, first_s = 0, None
        while True:
            done, pixels = self._capture.read()
            if not done:
                raise SourceError(f"{self._source} sends no more frames")
            now_s = time.perf_counter()
            first_s = now_s if first_s is None else first_s
            yield Frame(index, now_s - first_s, pixels.astype(np.uint8, copy=False), now_s)
            index += 1
