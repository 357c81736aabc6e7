"""A server's processes: which they are, the memory and the CPU time they take. Read from /proc, Linux only.

RSS counts a page shared by k processes in each of them. PSS counts 1/k of it in each, so that a sum over
processes is what they really take; but it changes when another program starts that maps the same libraries.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
MIB = 1024 * 1024
_KIB = 1024
_STAT = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
_BUSY = ("user", "nice", "system", "irq", "softirq", "steal")


@dataclass(frozen=True)
class ProcessMemory:
    """What one process takes. ``pss_bytes`` is None where the kernel does not tell."""

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
    children: dict[int, list[int]] = {}
    for folder in PROC.iterdir():
        if folder.name.isdigit() and (fields := _stat(int(folder.name))):
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    tree = [pid] if _stat(pid) else []
    for parent in tree:
        tree += children.get(parent, [])
    return tree


def has_dead_child(pid: int) -> bool:
    """Whether a process that ``pid`` started has ended and ``pid`` has not asked how."""
    stats = (_stat(int(folder.name)) for folder in PROC.iterdir() if folder.name.isdigit())
    return any(fields[:2] == ["Z", str(pid)] for fields in stats)


def other_cpu_s(pids: Sequence[int]) -> float:
    """CPU seconds since the start of the machine that neither these trees nor this process used."""
    fields = (PROC / "stat").read_text().partition("\n")[0].split()[1:]
    busy = sum(int(ticks) for name, ticks in zip(_STAT, fields, strict=False) if name in _BUSY)
    own_s = sum(tree_cpu_s(pid) for pid in pids) + time.process_time()
    return busy / os.sysconf("SC_CLK_TCK") - own_s


def tree_memory(pid: int) -> list[ProcessMemory]:
    """The memory of every process of the tree; those that end meanwhile are left out."""
    return [memory for one in process_tree(pid) if (memory := _memory(one)) is not None]


def tree_cpu_s(pid: int) -> float:
    """CPU seconds, user and system, that the processes of the tree have used since they were started."""
    ticks = 0
    for one in process_tree(pid):
        fields = _stat(one)
        ticks += int(fields[11]) + int(fields[12]) if fields else 0
    return ticks / os.sysconf("SC_CLK_TCK")


def total_bytes(processes: Sequence[ProcessMemory]) -> int:
    """The sum over processes."""
    return sum(process.taken_bytes for process in processes)


@contextmanager
def every(seconds: float, act: Callable[[], None]) -> Iterator[None]:
    """Call ``act`` now, again every ``seconds`` in a thread of its own, and once at the end."""
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


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name: state, parent, ...; none when the process is gone."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return []


def _memory(pid: int) -> ProcessMemory | None:
    folder = PROC / str(pid)
    try:
        name = (folder / "comm").read_text().strip()
        rss_bytes = int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return None
    if not rss_bytes:  # a zombie
        return None
    try:
        lines = (folder / "smaps_rollup").read_text().splitlines()
        pss_kib = next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), None)
    except OSError:
        pss_kib = None
    return ProcessMemory(pid, name, rss_bytes, None if pss_kib is None else pss_kib * _KIB)
