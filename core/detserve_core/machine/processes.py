"""A server's processes: which they are, the memory and the CPU time they take.

RSS counts a page shared by k processes in each of them. PSS counts 1/k of it in each, so that a sum over
processes is what they really take; but it changes when another program starts that maps the same libraries.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from detserve_core.errors import MissingExtra

if TYPE_CHECKING:
    import psutil

MIB = 1024 * 1024


@dataclass(frozen=True)
class ProcessMemory:
    """What one process takes. ``pss_bytes`` is None where the system does not tell."""

    pid: int
    name: str
    rss_bytes: int
    pss_bytes: int | None

    @property
    def taken_bytes(self) -> int:
        """PSS where it is known, else RSS."""
        return self.rss_bytes if self.pss_bytes is None else self.pss_bytes


def process_tree(pid: int) -> list[int]:
    """``pid`` and everything it started that still runs, parents before children."""
    return [process.pid for process in _tree(pid)]


def has_dead_child(pid: int) -> bool:
    """Whether a process that ``pid`` started has ended and ``pid`` has not asked how."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children():
            with suppress(psutil.NoSuchProcess):
                if child.status() == psutil.STATUS_ZOMBIE:
                    return True
    return False


def other_cpu_s(pids: Sequence[int]) -> float:
    """CPU seconds since the start of the machine that neither these trees nor this process used."""
    own_s = sum(tree_cpu_s(pid) for pid in pids) + time.process_time()
    import psutil

    times = psutil.cpu_times()
    idle_s = times.idle + getattr(times, "iowait", 0)
    guests_s = getattr(times, "guest", 0) + getattr(times, "guest_nice", 0)  # in user and nice too
    return sum(times) - guests_s - idle_s - own_s


def tree_memory(pid: int) -> list[ProcessMemory]:
    """The memory of every process of the tree; those that end meanwhile are left out."""
    return [memory for one in _tree(pid) if (memory := _memory(one)) is not None]


def tree_cpu_s(pid: int) -> float:
    """CPU seconds, user and system, that the processes of the tree have used since they were started."""
    import psutil

    used_s = 0.0
    for one in _tree(pid):
        with suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            used_s += times.user + times.system
    return used_s


def total_bytes(processes: Sequence[ProcessMemory]) -> int:
    """The sum over processes."""
    return sum(process.taken_bytes for process in processes)


@contextmanager
def every(seconds: float, act: Callable[[], None]) -> Iterator[None]:
    """Call ``act`` now, again every ``seconds`` in its own thread, and once at the end."""
    ended = threading.Event()

    def loop() -> None:
        while not ended.wait(seconds):
            act()

    act()
    thread = threading.Thread(target=loop, name="detserve-sampling", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    act()


def _tree(pid: int) -> list[psutil.Process]:
    try:
        import psutil
    except ImportError:
        raise MissingExtra("psutil", "perf") from None
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _memory(process: psutil.Process) -> ProcessMemory | None:
    import psutil

    try:
        name, rss_bytes = process.name(), process.memory_info().rss
        if not rss_bytes:  # a zombie
            return None
        with suppress(psutil.AccessDenied, AttributeError):  # macOS and Windows tell no PSS
            return ProcessMemory(process.pid, name, rss_bytes, process.memory_full_info().pss)
        return ProcessMemory(process.pid, name, rss_bytes, None)
    except psutil.NoSuchProcess:
        return None
