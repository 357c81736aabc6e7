"""A window that shows frames, with the rate and the latency on them."""

from __future__ import annotations

import subprocess
import sys
from collections import deque

import numpy as np
from numpy.typing import NDArray

from detserve_core.errors import MissingExtra, OutputError

_ESC = 27
_RATE_OVER_S = 2.0
_PROBE = "import cv2; cv2.namedWindow('detserve'); cv2.destroyAllWindows()"


class Window:
    """A window on the screen; q, Esc and its close button end it.

    Raises:
        OutputError: no window can be opened here.
        MissingExtra: OpenCV is not installed.
    """

    def __init__(self, title: str) -> None:
        try:
            import cv2
        except ImportError:
            raise MissingExtra("opencv-python", "video") from None
        _require_screen()
        self._title = title
        self._open = False
        self._cv2 = cv2

    def show(self, pixels: NDArray[np.uint8]) -> bool:
        """Show BGR ``pixels``; False when the user has ended it."""
        cv2 = self._cv2
        if not self._open:
            cv2.namedWindow(self._title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
            cv2.resizeWindow(self._title, pixels.shape[1], pixels.shape[0])
            self._open = True
        cv2.imshow(self._title, pixels)
        return self.look()

    def look(self) -> bool:
        """See to the window; False when the user has ended it."""
        cv2 = self._cv2
        key = cv2.waitKey(1) & 0xFF
        if key in (ord("q"), _ESC):
            return False
        return not self._open or cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) >= 1

    def close(self) -> None:
        """Close the window."""
        self._cv2.destroyAllWindows()


class Rate:
    """Frames per second over the last two seconds."""

    def __init__(self) -> None:
        self._times_s: deque[float] = deque()

    def count(self, now_s: float) -> float:
        """Count one frame at ``now_s``; the rate, 0 for the first frame."""
        self._times_s.append(now_s)
        while now_s - self._times_s[0] > _RATE_OVER_S:
            self._times_s.popleft()
        passed_s = now_s - self._times_s[0]
        return (len(self._times_s) - 1) / passed_s if passed_s > 0 else 0.0


def with_status(pixels: NDArray[np.uint8], text: str) -> NDArray[np.uint8]:
    """A copy of BGR ``pixels`` ``(h, w, 3)`` with a line of text in its upper left corner."""
    import cv2

    shown = pixels.copy()
    scale = max(0.4, min(pixels.shape[:2]) / 900)
    thickness = max(1, round(2 * scale))
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    cv2.rectangle(shown, (0, 0), (width + height, 2 * height + below), (0, 0, 0), cv2.FILLED)
    at = (height // 2, round(1.5 * height))
    cv2.putText(shown, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), thickness, cv2.LINE_AA)
    return shown


def _require_screen() -> None:
    """OpenCV's window library ends the whole process where it finds no screen, so another one tries first."""
    tried = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        raise OutputError(
            "--show cannot open a window: there is no screen here, or OpenCV was built without windows "
            "(opencv-python-headless)"
        )
