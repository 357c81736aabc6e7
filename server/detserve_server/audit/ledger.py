"""Writing the chain: a batch of records is committed with its head, or not at all."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detserve_server.audit.chain import (
    HEAD,
    End,
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
from detserve_server.audit.restore import restored
from detserve_server.errors import AuditBroken, AuditError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FILE_BYTES = 64 * 2**20


class Ledger:
    """An audit log that is open for writing; made by :func:`open_ledger`.

    The order of a commit: a head that says what comes next, the lines, the new head, each durably. So a
    collector that was killed in between can be told from an older head that was put back.
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
        end, lines = self._chain(bodies, position)
        path = self._directory / end.file
        start_bytes = self.head.bytes if end.file == self.head.file else 0
        version = 2 if lines else self.head.schema_version
        head = Head.model_validate({**end.model_dump(), "schema_version": version})
        try:
            if lines:
                write_head(self._directory, self.head.before(end), self._key)
            with _written(path, start_bytes, lines):
                write_head(self._directory, head, self._key)
        except FileExistsError:
            raise AuditBroken(
                f"{path} was not written by this collector, which would write it now; move it away"
            ) from None
        except OSError as error:
            raise AuditError(
                f"the audit log in {self._directory} cannot be written ({error.strerror}); "
                f"make room there: nothing is lost, the access log is read on from where it was"
            ) from None
        self.head = head

    def _chain(self, bodies: Sequence[Mapping[str, Any]], position: Position) -> tuple[End, bytes]:
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
        end = End(sequence=sequence, hash=last, file=file, bytes=size + len(text), position=position)
        return end, text

    def _next_file(self) -> str:
        """The file for the next records. A clock that goes back does not lead to an earlier one.

        Behind a head of version 1 a new one is begun: put back later, that head is known to be older.
        """
        day, number = day_and_number(self.head.file)
        today = _now().date().isoformat()
        if today > day:
            return file_name(today, 0)
        return file_name(day, number + (self.head.bytes >= self._file_bytes or self.head.schema_version == 1))


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
        if os.path.lexists(directory / HEAD):
            signed = read_head(directory / HEAD, key.public_key())
            ledger.head = restored(directory, signed, on_note)
            if ledger.head != signed:
                ledger.append([], ledger.head.position)
        elif audit_files(directory):
            raise AuditBroken(
                f"{directory} holds audit files and no {HEAD}, which was removed; put its newest copy back "
                f"(an older one is refused), or move the files away and begin a new log"
            )
        else:
            ledger.append([], Position())
        yield ledger
    finally:
        os.close(handle)


@contextmanager
def _written(path: Path, start_bytes: int, lines: bytes) -> Iterator[None]:
    """Append durably, to a new file at 0 bytes; what was appended is taken back when the block fails."""
    if not lines:
        yield
        return
    flags = os.O_EXCL | os.O_CREAT if start_bytes == 0 else os.O_NONBLOCK
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | flags, 0o640), "ab", buffering=0) as file:
        if file.seek(0, os.SEEK_END) != start_bytes:
            raise AuditBroken(f"{path} was changed by another process while it was written")
        try:
            if start_bytes == 0:
                sync_directory(path.parent)
            view = memoryview(lines)
            while view:
                view = view[file.write(view) :]
            os.fsync(file.fileno())
            yield
        except OSError:
            with suppress(OSError):  # then the next start moves it aside
                os.truncate(path, start_bytes) if start_bytes else path.unlink()
            raise


def _now() -> datetime:
    return datetime.now(timezone.utc)
