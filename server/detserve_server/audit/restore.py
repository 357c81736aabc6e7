"""What a collector does at its start with lines behind the head: commit, move aside or refuse, never delete.

The head says which batch was being written (:attr:`Head.next`). Lines that end with its hash are all of it:
they are committed now. Fewer were never committed: they are moved aside, and read from the access log again.
More, or any where the head names no batch, were committed by a newer head: an older one was put back.

A head of version 1 does not say it. Up to a batch's worth of lines in its own file is moved aside; ``verify``
looks whether they come again.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from detserve_server.audit.chain import (
    HEAD,
    LONGEST_LINE_BYTES,
    Head,
    audit_files,
    chained,
    files_behind,
    sync_directory,
)
from detserve_server.errors import AuditBroken, AuditError
from detserve_server.regular_file import open_regular
from detserve_server.signing.keys import canonical_json

_BATCH_OF_VERSION_1_BYTES = 2**21


def restored(directory: Path, head: Head, on_note: Callable[[str], None]) -> Head:
    """The head to go on from; ``on_note`` is told what was moved aside.

    Raises :class:`AuditBroken` (the newest file is not what the head says, an older head was put back, a file
    that is not this log's stands in the way) and :class:`AuditError` (the disk is full).
    """
    if head.file:
        _check_committed(directory / head.file, head)
    reached = _reached(directory, head)
    expected = head.next
    _check_newest(directory, head, reached)
    if expected is None or reached.sequence < expected.sequence:
        whole = head
    else:
        on_note(f"the last batch, up to record {expected.sequence}, was written whole; going on behind it")
        whole = Head.model_validate(expected.model_dump())
    committed_bytes = {expected.file: 0} if expected is not None else {}
    committed_bytes |= {head.file: head.bytes} | {whole.file: whole.bytes}
    for path in audit_files(directory):
        kept_bytes = committed_bytes.get(path.name)
        if kept_bytes == 0 or (kept_bytes is not None and path.stat().st_size > kept_bytes):
            _move_aside(path, kept_bytes, on_note)
    return whole


@dataclass(frozen=True)
class _Reached:
    """The last record that follows from the head, the head's own when none does, and its file."""

    sequence: int
    hash: str
    file: str


def _check_newest(directory: Path, head: Head, reached: _Reached) -> None:
    """Whether nothing behind the head was committed by a newer one."""
    if head.next is not None:
        whole = reached.sequence == head.next.sequence and reached.hash == head.next.hash
        is_newest = reached.sequence < head.next.sequence or whole
    elif head.schema_version == 1 and reached.sequence > head.sequence and reached.file == head.file:
        own_bytes = (directory / head.file).stat().st_size - head.bytes
        is_newest = own_bytes <= _BATCH_OF_VERSION_1_BYTES
    else:
        is_newest = reached.sequence == head.sequence
    if not is_newest:
        raise AuditBroken(
            f"{directory / HEAD} ends at record {head.sequence}, and records up to {reached.sequence} follow "
            f"from it: it was replaced by an older one. Put the newest back, or move the folder away and "
            f"begin a new log; nothing was changed"
        )
    for path in files_behind(directory, head.file):
        if head.next is None or path.name != head.next.file:
            raise AuditBroken(
                f"{path} does not follow from {directory / HEAD}: it was not written by this collector; "
                f"move it away, or put the newest {HEAD} back"
            )


def _reached(directory: Path, head: Head) -> _Reached:
    reached = _Reached(head.sequence, head.hash, head.file)
    paths = [directory / head.file] if head.file else []
    for path in [*paths, *files_behind(directory, head.file)]:
        for body, digest, line in _bodies(path, head.bytes if path.name == head.file else 0):
            if body.get("sequence") != reached.sequence + 1 or chained(reached.hash, body) != (line, digest):
                break
            reached = _Reached(reached.sequence + 1, digest, path.name)
    return reached


def _bodies(path: Path, start_bytes: int) -> Iterator[tuple[dict[str, Any], str, bytes]]:
    """Body, hash and line of each record behind ``start_bytes``, up to the first that is not one."""
    try:
        with open_regular(path) as file:
            file.seek(start_bytes)
            while line := file.readline(LONGEST_LINE_BYTES):
                body = json.loads(line)
                digest = body.pop("hash")
                if canonical_json({**body, "hash": digest}) + b"\n" != line:
                    return
                yield body, digest, line
    except OSError as error:
        raise AuditError(f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return


def _check_committed(path: Path, head: Head) -> None:
    changed = AuditBroken(
        f"{path} is not what the head says was written; the log was changed. Find where with: "
        f"detserve audit verify; then move it away and begin a new one"
    )
    last, size, sequence = "", 0, 0
    try:
        with open_regular(path) as file:
            while size < head.bytes:
                line = file.readline(head.bytes - size)
                if not line:
                    raise changed
                size += len(line)
                body = json.loads(line)
                body.pop("hash")
                _, last = chained(last or body["previous"], body)
                sequence = body["sequence"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise changed from None
    if (last, sequence) != (head.hash, head.sequence):
        raise changed


def _move_aside(path: Path, committed_bytes: int, on_note: Callable[[str], None]) -> None:
    """Copy what is behind the committed bytes beside the file and cut it off, or rename the whole file."""
    aside = path.with_name(f"{path.name}.aside-{datetime.now(timezone.utc):%Y%m%dT%H%M%S%fZ}")
    extra_bytes = path.stat().st_size - committed_bytes
    try:
        if os.path.lexists(aside):
            raise FileExistsError(errno.EEXIST, "it exists")
        if committed_bytes == 0:
            path.rename(aside)
        else:
            _copy_end(path, committed_bytes, aside)
            sync_directory(path.parent)
            os.truncate(path, committed_bytes)
        sync_directory(path.parent)
    except OSError as error:
        raise AuditError(
            f"{extra_bytes} bytes behind the end of {path} cannot be moved to {aside} ({error.strerror}); "
            f"make room there"
        ) from None
    on_note(
        f"moved {extra_bytes} bytes behind the signed end of {path} to {aside}; "
        f"what they were made of is read again from the access log"
    )


def _copy_end(path: Path, start_bytes: int, target: Path) -> None:
    try:
        with open_regular(path) as source, target.open("xb") as file:
            source.seek(start_bytes)
            shutil.copyfileobj(source, file)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        target.unlink(missing_ok=True)
        raise
