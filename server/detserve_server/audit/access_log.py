"""Following an access log line by line, through rotation and restarts.

A log file is known by its first line, which holds a request's time and number, not by its name or inode: so
the position survives a rename, a copy, an inode that is used again and a file that is cut to nothing in its
place. Open files are kept open, so that one which is rotated away and deleted is read to its end first.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detserve_server.audit.chain import Position
from detserve_server.audit.record import gap, record_of, untrusted
from detserve_server.errors import AuditError

_IDENTITY_BYTES = 4096
_BATCH_BYTES = 2**20
_LONGEST_LINE_BYTES = 2**18
_LINGER_S = 10.0  # a gateway writes to a log that is rotated away until each of its workers has reopened
_LOOKS = 50
_LOOK_AGAIN_S = 0.01
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


#: What the gateway says of itself, beside its access log: Prometheus's text format.
GATEWAY_METRICS = "gateway.prom"


@dataclass(frozen=True)
class Batch:
    """Records in the order of their lines, and the position behind them.

    ``whole`` is whether nothing but a line that was not complete was left.
    """

    records: list[dict[str, Any]]
    position: Position
    whole: bool = True


@dataclass(frozen=True)
class _LogFile:
    """``name`` is "" once the file is deleted."""

    key: tuple[int, int]
    handle: int
    name: str
    identity: str
    size_bytes: int
    modified_s: float


class AccessLog:
    """The access log ``path`` and its rotated siblings ``path.*`` and ``path-*``.

    Compressed ones are left out, and so is :data:`GATEWAY_METRICS`, which is beside a log ``gateway`` and not
    a sibling of it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handles: dict[tuple[int, int], int] = {}

    def close(self) -> None:
        """Close the files."""
        for handle in self._handles.values():
            os.close(handle)
        self._handles.clear()

    def read(self, position: Position) -> Batch:
        """The complete lines behind ``position``, about a MiB of them at most; none when there are none yet.

        Raises :class:`AuditError` when a file cannot be read.
        """
        try:
            return self._read(self._files(), position)
        except OSError as error:
            raise AuditError(f"the access log {self._path} cannot be read ({error.strerror})") from None

    def _read(self, files: list[_LogFile], position: Position) -> Batch:
        records: list[dict[str, Any]] = []
        known = {file.identity for file in files}
        if position.current and position.current not in known:
            records.append(
                gap("the access log that was read is gone; lines written to it later may be missing")
            )
        offsets: dict[str, int] = {}
        room_bytes, whole = _BATCH_BYTES, True
        for file in files:
            start_bytes = end_bytes = position.offsets_bytes.get(file.identity, 0)
            whole = whole and file.size_bytes - start_bytes <= max(room_bytes, 0)
            if room_bytes > 0 and file.size_bytes > start_bytes:
                found, end_bytes = _read_lines(file, start_bytes, room_bytes)
                records += found
                room_bytes -= end_bytes - start_bytes
            if file.name or end_bytes > start_bytes or time.time() < file.modified_s + _LINGER_S:
                offsets[file.identity] = end_bytes
            else:
                os.close(self._handles.pop(file.key))
        current = [file.identity for file in files if file.name == self._path.name] or [position.current]
        return Batch(records, Position(offsets, current[0] if current[0] in offsets else ""), whole)

    def _files(self) -> list[_LogFile]:
        """What there is to read: oldest first, the one the gateway writes to last, each identity once."""
        names = self._open_new()
        longest: dict[str, _LogFile] = {}
        for key, handle in list(self._handles.items()):
            status = os.fstat(handle)
            identity = _identity(handle)
            file = _LogFile(key, handle, names.get(key, ""), identity, status.st_size, status.st_mtime)
            if not identity:
                if not file.name:
                    os.close(self._handles.pop(key))
            elif identity not in longest or longest[identity].size_bytes < file.size_bytes:
                longest[identity] = file
        return sorted(longest.values(), key=lambda file: (file.name == self._path.name, file.modified_s))

    def _open_new(self) -> dict[tuple[int, int], str]:
        """Open what was not open; the names of all files that have one.

        Files that are renamed meanwhile may be missing in one look, and a missing one counts as deleted: it
        would be read again from its beginning. So it takes two looks that see the same.
        """
        for _ in range(_LOOKS):
            listed = self._listed()
            names = {}
            for name in sorted(listed):
                try:
                    handle = os.open(self._path.with_name(name), os.O_RDONLY | os.O_NONBLOCK)
                except FileNotFoundError:  # renamed since it was listed
                    continue
                status = os.fstat(handle)
                key = (status.st_dev, status.st_ino)
                names[key] = name
                if key in self._handles:
                    os.close(handle)
                else:
                    self._handles[key] = handle
            if len(names) == len(set(listed.values())) and self._listed() == listed:
                break
            time.sleep(_LOOK_AGAIN_S)
        return names

    def _listed(self) -> dict[str, int]:
        """Name and inode of the log and its siblings."""
        start, found = self._path.name, {}
        with os.scandir(self._path.parent) as entries:
            for entry in entries:
                rest = entry.name.removeprefix(start) if entry.name.startswith(start) else "no sibling"
                if (rest and rest[0] not in ".-") or entry.name.endswith(_COMPRESSED):
                    continue
                if entry.name.startswith(GATEWAY_METRICS):
                    continue
                if _is_regular(entry, or_absent=not rest):
                    found[entry.name] = entry.inode()
        return found


def _is_regular(entry: os.DirEntry[str], *, or_absent: bool) -> bool:
    """Whether it is a file, through links; with ``or_absent``, ``OSError`` for what will never be one."""
    try:
        mode = entry.stat().st_mode
    except FileNotFoundError:
        return False
    except OSError:
        if or_absent:
            raise
        return False
    if or_absent and not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    return stat.S_ISREG(mode)


def _identity(handle: int) -> str:
    """A hash of the first line, or of its first 4096 bytes; "" while the line is not complete."""
    beginning = os.pread(handle, _IDENTITY_BYTES, 0)
    line, line_break, _ = beginning.partition(b"\n")
    if not line_break and len(beginning) < _IDENTITY_BYTES:
        return ""
    return hashlib.sha256(line).hexdigest()[:32]


def _read_lines(file: _LogFile, start_bytes: int, most_bytes: int) -> tuple[list[dict[str, Any]], int]:
    """The records of the complete lines from ``start_bytes`` on, and where the last of them ends."""
    text = os.pread(file.handle, max(most_bytes, _LONGEST_LINE_BYTES), start_bytes)
    complete = text[: text.rfind(b"\n") + 1]
    if complete:
        return [record_of(line) for line in complete[:-1].split(b"\n")], start_bytes + len(complete)
    if len(text) < _LONGEST_LINE_BYTES:
        return [], start_bytes
    return _skip_long_line(file, start_bytes, text)


def _skip_long_line(file: _LogFile, start_bytes: int, beginning: bytes) -> tuple[list[dict[str, Any]], int]:
    """One untrusted record for a line longer than memory should hold, once its end is there."""
    digest, end_bytes = hashlib.sha256(), start_bytes
    while chunk := os.pread(file.handle, _BATCH_BYTES, end_bytes):
        line, line_break, _ = chunk.partition(b"\n")
        digest.update(line)
        end_bytes += len(line)
        if line_break:
            length = end_bytes - start_bytes
            return [untrusted("too long", beginning, length, digest.hexdigest())], end_bytes + 1
    return [], start_bytes
