"""Regions of shared memory that a server on this host reads pictures from.

A region's name is removed from ``/dev/shm`` as soon as the server has mapped it: its memory then lives as
long as the two mappings, and nothing is left in ``/dev/shm`` however this process ends. What is left after a
``kill -9`` is the server's mapping, under a name that says whose it was; the next client unregisters it.
"""

from __future__ import annotations

import mmap
import os
import re
import secrets
import threading
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detserve_client.pictures.bitmaps import bmp_bytes, write_bmp

_FOLDER = Path("/dev/shm")  # noqa: S108
_PREFIX = "detserve-client"
_NAME = re.compile(rf"{_PREFIX}-(\d+)-(\d+)-(\d+)-[0-9a-f]+")
_LEAST_BYTES = 1 << 20
_LENGTH_BYTES = 4

_live: set[str] = set()
"""The regions of this process."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_live.clear)


class Region:
    """Shared memory of ``size_bytes``; ``key`` is its name for ``shm_open``."""

    def __init__(self, size_bytes: int, generation: int) -> None:
        self.generation = generation
        self.name = f"{_owner()}-{secrets.token_hex(4)}"
        self.key = f"/{self.name}"
        self.size_bytes = size_bytes
        self._path = _FOLDER / self.name
        _live.add(self.name)  # first: another client of this process may be looking for what is abandoned
        try:
            handle = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
            try:
                os.posix_fallocate(handle, 0, size_bytes)  # no room is an error here, a SIGBUS later
                self._memory = np.frombuffer(mmap.mmap(handle, size_bytes), np.uint8)
            finally:
                os.close(handle)
        except OSError:
            self.remove_name()
            _live.discard(self.name)
            raise

    def remove_name(self) -> None:
        """Take the name out of ``/dev/shm``; the memory stays while it is mapped."""
        with suppress(FileNotFoundError):
            self._path.unlink()

    def write(self, pixels: NDArray[np.uint8]) -> int:
        """Write BGR pixels uint8 ``(h, w, 3)`` as a BYTES tensor ``(1, 1)`` of a BMP; returns its size."""
        size = bmp_bytes(pixels.shape[1], pixels.shape[0])
        end = _LENGTH_BYTES + size
        self._memory[:_LENGTH_BYTES] = np.frombuffer(size.to_bytes(_LENGTH_BYTES, "little"), np.uint8)
        write_bmp(self._memory[_LENGTH_BYTES:end], pixels)
        return end


class RegionPool:
    """Regions that are used again. Each holds one picture; there are as many as pictures in flight."""

    def __init__(self, most_bytes: int = 512 << 20) -> None:
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._generation = 0  # of the server: a started one knows no region of the one before
        self._sizes_bytes: dict[str, int] = {}
        self._free: list[Region] = []
        self._retired: list[str] = []

    def take(self, pixels: NDArray[np.uint8]) -> tuple[Region, bool] | None:
        """A region with room for ``pixels`` and whether it is new; None when the pool may not grow.

        Raises:
            OSError: ``/dev/shm`` has no room or is not there.
        """
        needed = _LENGTH_BYTES + bmp_bytes(pixels.shape[1], pixels.shape[0])
        with self._lock:
            for region in self._free:
                if region.size_bytes >= needed:
                    self._free.remove(region)
                    return region, False
            size_bytes = max(_LEAST_BYTES, 1 << (needed - 1).bit_length())
            if sum(self._sizes_bytes.values()) + size_bytes > self._most_bytes:
                return None
            region = Region(size_bytes, self._generation)
            self._sizes_bytes[region.name] = size_bytes
            return region, True

    def give_back(self, region: Region) -> None:
        """Make a region available again, unless the server does not know it."""
        with self._lock:
            if region.generation == self._generation:
                self._free.append(region)
            else:
                self._retire(region)

    def lost(self, region: Region) -> None:
        """Say that the server does not know a region: then it knows none that was made before now."""
        with self._lock:
            if region.generation == self._generation:
                self._generation += 1
                for other in self._free:
                    self._retire(other)
                self._free = []

    def discard(self, region: Region) -> None:
        """Forget a region that could not be registered."""
        region.remove_name()
        with self._lock:
            self._sizes_bytes.pop(region.name, None)
            _live.discard(region.name)

    def retire(self, region: Region) -> None:
        """Never use a region again, which the server may know and somebody may still write into."""
        region.remove_name()
        with self._lock:
            self._retire(region)

    def retired(self) -> list[str]:
        """The names of regions that are not used again and that the server may know."""
        with self._lock:
            return list(self._retired)

    def forget(self, names: set[str]) -> None:
        """Drop retired regions, as the server has let go of them."""
        with self._lock:
            self._retired = [name for name in self._retired if name not in names]
            _live.difference_update(names)

    def close(self) -> list[str]:
        """Forget every region; returns the names that the server may know."""
        with self._lock:
            names = [*self._sizes_bytes, *self._retired]
            self._sizes_bytes, self._free, self._retired = {}, [], []
            self._generation += 1
            _live.difference_update(names)
            return names

    def _retire(self, region: Region) -> None:
        if self._sizes_bytes.pop(region.name, None) is not None:
            self._retired.append(region.name)


def abandoned(names: Iterable[str]) -> list[str]:
    """Those of the names that clients on this host have left behind, most by being killed."""
    namespace, own = _namespace(), _owner()
    left = []
    for name in names:
        found = _NAME.fullmatch(name)
        if not found or found[1] != namespace:
            continue
        gone = name not in _live if name.startswith(f"{own}-") else _started(int(found[2])) != found[3]
        if gone:
            left.append(name)
    return left


def remove_abandoned_names() -> None:
    """Take out of ``/dev/shm`` what a client left that was killed between making and registering a region."""
    for name in abandoned(path.name for path in _FOLDER.glob(f"{_PREFIX}-*")):
        with suppress(OSError):
            (_FOLDER / name).unlink()


def _owner() -> str:
    """The first part of the names of this process's regions, which no process after it will have."""
    return f"{_PREFIX}-{_namespace()}-{os.getpid()}-{_started(os.getpid())}"


@cache
def _namespace() -> str:
    """The namespace in which process ids are to be understood."""
    return str(Path("/proc/self/ns/pid").stat().st_ino)


def _started(process: int) -> str | None:
    """When a process began, in ticks since the machine did; None when it is not there."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
