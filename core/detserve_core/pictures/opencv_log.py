"""OpenCV's own messages, which say in its words what detserve says in a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_SILENT = 0


@contextmanager
def silent_opencv() -> Iterator[None]:
    """Keep OpenCV from writing to stderr while the block runs."""
    import cv2

    level = cv2.getLogLevel()
    cv2.setLogLevel(_SILENT)
    try:
        yield
    finally:
        cv2.setLogLevel(level)
