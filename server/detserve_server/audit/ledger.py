"""Writing the chain: a batch of records is committed with its head, or not at all."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detserve_server.audit.chain import (
    HEAD,
    Head,
    Position,
    audit_files,
    chained,
    day_and_number,
    file_name,
    read_head,
    sync_directory,
    write_head,
)
from detserve_server.audit.record import timestamp
from detserve_server.errors import AuditBroken, AuditError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FILE_BYTES = 64 * 2**20


class Ledger:
    """An audit log that is open for writing; made by :func:`open_ledger`.

    The order of a commit: lines, fsync, head. What stands in the files behind the head's ``bytes`` was never
    committed; the next start removes it and reads it from the access log again.
    """

    def __init__(self, directory: Path, key: Ed25519PrivateKey, file_bytes: int) -> None:
        self.head = Head()
        self._directory = directory
        self._key = key
        self._file_bytes = file_bytes

    def append(self, bodies: Sequence[Mapping[str, Any]], position: Position) -> None:
        """Commit records and the position in the access log behind them.

        Raises :class:`AuditError` when they cannot be written, e.g. because the disk is full. Then nothing of
        them stays, and the same call may be made again.
        """
        head, lines = self._chain(bodies, position)
        path = self._directory / head.file
        start_bytes = self.head.bytes if head.file == self.head.file else 0
        try:
            if lines:
                _write(path, start_bytes, lines)
            write_head(self._directory, head, self._key)
        except OSError as error:
            if lines:
                with suppress(OSError):  # then the next start removes it
                    _cut(path, start_bytes)
            raise AuditError(
                f"the audit log in {self._directory} cannot be written ({error.strerror}); "
                f"make room there: nothing is lost, the access log is read on from where it was"
            ) from None
        self.head = head

    def _chain(self, bodies: Sequence[Mapping[str, Any]], position: Position) -> tuple[Head, bytes]:
        sequence, last, file, size = self.head.sequence, self.head.hash, self.head.file, self.head.bytes
        lines = []
        if bodies and (name := self._next_file()) != file:
            opening = {"kind": "file", "file": name, "previous": last, "time": timestamp(_now())}
            bodies, file, size = [opening, *bodies], name, 0
        for body in bodies:
            sequence += 1
            line, last = chained(last, {**body, "sequence": sequence})
            lines.append(line)
        text = b"".join(lines)
        head = Head(sequence=sequence, hash=last, file=file, bytes=size + len(text), position=position)
        return head, text

    def _next_file(self) -> str:
        """The file for the next records. A clock that goes back does not lead to an earlier one."""
        day, number = day_and_number(self.head.file)
        today = _now().date().isoformat()
        if today > day:
            return file_name(today, 0)
        return file_name(day, number + (self.head.bytes >= self._file_bytes))


@contextmanager
def open_ledger(
    directory: Path,
    key: Ed25519PrivateKey,
    *,
    file_bytes: int = FILE_BYTES,
    on_note: Callable[[str], None] = lambda note: None,
) -> Iterator[Ledger]:
    """Open an audit log for one collector; a new one is begun in an empty folder.

    Raises :class:`AuditError` (the folder cannot be written, another collector has it) and
    :class:`AuditBroken` (the newest file is not what the signed head says).
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(directory, os.O_RDONLY)
    except OSError as error:
        raise AuditError(f"the folder {directory} cannot be written ({error.strerror})") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AuditError(
                f"another collector writes to {directory}; stop it, or give another folder"
            ) from None
        ledger = Ledger(directory, key, file_bytes)
        if (directory / HEAD).exists():
            ledger.head = read_head(directory / HEAD, key.public_key())
            _restore(directory, ledger.head, on_note)
        elif audit_files(directory):
            raise AuditBroken(
                f"{directory} holds audit files and no {HEAD}, which was removed; put a copy back, or "
                f"move the files away and begin a new log"
            )
        else:
            ledger.append([], Position())
        yield ledger
    finally:
        os.close(handle)


def _restore(directory: Path, head: Head, on_note: Callable[[str], None]) -> None:
    """Check the file the head points into, and remove what was never committed behind it."""
    newest = directory / head.file
    if head.file:
        _check_committed(newest, head)
        extra_bytes = newest.stat().st_size - head.bytes
        if extra_bytes:
            on_note(f"removed {extra_bytes} uncommitted bytes from the end of {newest}; they are read again")
            _cut(newest, head.bytes)
    for path in audit_files(directory):
        if day_and_number(path.name) > day_and_number(head.file):
            on_note(f"removed {path}, which was never committed; its lines are read again")
            path.unlink()


def _check_committed(path: Path, head: Head) -> None:
    changed = AuditBroken(
        f"{path} is not what the head says was written; the log was changed. Find where with: "
        f"detserve audit verify; then move it away and begin a new one"
    )
    last, size, sequence = "", 0, 0
    try:
        with path.open("rb") as file:
            while size < head.bytes:
                line = file.readline(head.bytes - size)
                if not line:
                    raise changed
                size += len(line)
                body = json.loads(line)
                body.pop("hash")
                _, last = chained(last or body["previous"], body)
                sequence = body["sequence"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise changed from None
    if (last, sequence) != (head.hash, head.sequence):
        raise changed


def _write(path: Path, start_bytes: int, lines: bytes) -> None:
    is_new = not path.exists()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    with os.fdopen(handle, "ab", buffering=0) as file:
        if is_new:
            sync_directory(path.parent)
        elif file.seek(0, os.SEEK_END) != start_bytes:
            raise AuditBroken(f"{path} was changed by another process while it was written")
        view = memoryview(lines)
        while view:
            view = view[file.write(view) :]
        os.fsync(file.fileno())


def _cut(path: Path, size_bytes: int) -> None:
    if not path.exists():
        return
    if size_bytes == 0:
        path.unlink()
    else:
        os.truncate(path, size_bytes)


def _now() -> datetime:
    return datetime.now(timezone.utc)
