"""The pipeline's own queue of pictures: its bound, and its share of Triton's metrics.

Triton takes a request for running once the pipeline has it, so its own queue metrics stay at zero.
"""

from __future__ import annotations

import threading
import time
from typing import Any

PERIOD_S = 1.0
METRICS = (
    ("waiting", "detserve_queue_pictures", "GAUGE", "Pictures that wait for a thread"),
    ("picture_seconds", "detserve_queue_picture_seconds_total", "COUNTER", "Sum of all waits"),
    ("taken", "detserve_queue_taken_total", "COUNTER", "Pictures that waited no longer"),
    ("refused", "detserve_queue_refused_total", "COUNTER", "Pictures refused, the queue being full or slow"),
)


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

    def totals(self) -> dict[str, float]:
        """By the first names of METRICS, until now."""
        with self.lock:
            self._change(0)
            return {name: getattr(self, name) for name, *_ in METRICS}

    def _change(self, pictures: int) -> None:
        now_s = time.monotonic()
        self.picture_seconds += self.waiting * (now_s - self.changed_s)
        self.changed_s = now_s
        self.waiting += pictures


class QueueReport:
    """Writes the totals of a queue into Triton's metrics every second, from its own thread.

    Once a second and not with every picture: each write is a message to the server's process.
    """

    def __init__(self, queue: PictureQueue, labels: dict[str, str], pb_utils: Any) -> None:
        """Register the metrics; raises ``pb_utils.TritonModelException`` where Triton has metrics off."""
        self.queue, self.stopped = queue, threading.Event()
        kinds = pb_utils.MetricFamily
        self.families = [
            kinds(name=name, description=description, kind=getattr(kinds, kind))
            for _, name, kind, description in METRICS
        ]
        self.metrics = [family.Metric(labels=labels) for family in self.families]
        self.thread = threading.Thread(target=self._run, name="queue-report", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """End the thread, after a last report."""
        self.stopped.set()
        self.thread.join()

    def _run(self) -> None:
        reported = dict.fromkeys(self.queue.totals(), 0.0)
        while True:
            last = self.stopped.wait(PERIOD_S)
            totals = self.queue.totals()
            for metric, (name, _, kind, _) in zip(self.metrics, METRICS, strict=True):
                if kind == "GAUGE":
                    metric.set(totals[name])
                elif totals[name] > reported[name]:
                    metric.increment(totals[name] - reported[name])
            reported = totals
            if last:
                return
