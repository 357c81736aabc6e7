"""The pipeline's own queue of pictures: its bound, and what it counts.

Triton takes a request for running once the pipeline has it, so its own queue metrics stay at zero.
"""

from __future__ import annotations

import threading
import time


class PictureQueue:
    """Counts the pictures that wait; a request that finds ``max_waiting`` or more is not admitted.

    One thread calls ``admits`` and ``enter``, any may call ``leave``.
    ``picture_seconds`` is the integral of ``waiting`` over time: its rate is the mean length of the queue,
    and its rate over that of ``taken`` the mean wait in seconds (Little, 1961).
    """

    def __init__(self, max_waiting: int) -> None:
        """An empty queue."""
        self.max_waiting = max_waiting
        self.waiting = self.taken = self.refused = 0
        self.picture_seconds = 0.0
        self.changed_s = time.monotonic()
        self.lock = threading.Lock()

    def admits(self, pictures: int) -> bool:
        """Whether the pictures of a request may enter; where not, they count as refused."""
        with self.lock:
            if self.waiting < self.max_waiting:
                return True
            self.refused += pictures
            return False

    def enter(self, pictures: int) -> None:
        """Count in the pictures of a request."""
        with self.lock:
            self._change(pictures)

    def leave(self, *, refused: bool) -> None:
        """Count out one picture, which has waited too long where it is ``refused``."""
        with self.lock:
            self._change(-1)
            self.taken += 1
            self.refused += refused

    def totals(self) -> dict[tuple[str, ...], float]:
        """By the names of their metrics, until now."""
        with self.lock:
            self._change(0)
            return {
                ("detserve_queue_pictures",): self.waiting,
                ("detserve_queue_limit_pictures",): self.max_waiting,
                ("detserve_queue_picture_seconds_total",): self.picture_seconds,
                ("detserve_queue_taken_total",): self.taken,
                ("detserve_queue_refused_total",): self.refused,
            }

    def _change(self, pictures: int) -> None:
        now_s = time.monotonic()
        self.picture_seconds += self.waiting * (now_s - self.changed_s)
        self.changed_s = now_s
        self.waiting += pictures
