"""The reference that serving is measured against: the served steps in this process, without a server.

As many workers as cores, each of which decodes, runs the detector on one thread and post-processes, one
picture after the other. Nothing is copied between processes and nothing waits in a queue.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from detserve_core.errors import MissingExtra
from detserve_core.repository.served_steps import DetectOne


@dataclass(frozen=True)
class ReferenceRun:
    """One run of the reference.

    ``cores_share`` is the CPU time it got over what its workers could have had, near 1 on a quiet machine.
    """

    pictures_per_s: float
    cores_share: float


def run_reference(workers: list[DetectOne], pictures: list[bytes], count: int) -> ReferenceRun:
    """Detect in ``count`` pictures, taken from ``pictures`` in turn and shared among the workers."""
    for detect in workers:
        detect(pictures[0])
    with _one_opencv_thread(), ThreadPoolExecutor(len(workers)) as pool:
        turns = itertools.islice(itertools.cycle(pictures), count)  # next() on it is atomic under the GIL
        started_s, used_s = time.perf_counter(), time.process_time()
        for future in [pool.submit(_drain, detect, turns) for detect in workers]:
            future.result()
        took_s = time.perf_counter() - started_s
        return ReferenceRun(count / took_s, (time.process_time() - used_s) / (took_s * len(workers)))


def _drain(detect: DetectOne, turns: Iterator[bytes]) -> None:
    for encoded in turns:
        detect(encoded)


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    try:
        import cv2
    except ImportError:
        raise MissingExtra("opencv-python", "perf") from None

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
