"""Reading the chain back, and finding the first line at which it breaks."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from detserve_server.audit.chain import (
    GENESIS,
    HEAD,
    LONGEST_LINE_BYTES,
    Head,
    audit_files,
    chained,
    read_head,
)
from detserve_server.audit.moved_aside import Aside
from detserve_server.audit.record import is_complete
from detserve_server.errors import AuditBroken, AuditError
from detserve_server.regular_file import open_regular
from detserve_server.signing.keys import canonical_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_COLLECTOR_S = 5.0
_POLL_S = 0.2


@dataclass
class Verdict:
    """What an unbroken log holds. ``counts`` is by kind of record; the times are of requests."""

    sequence: int = 0
    files: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    first_time: str = ""
    last_time: str = ""


@dataclass(frozen=True)
class _Line:
    where: str
    record: Mapping[str, Any]
    hash: str


def verify(
    directory: Path,
    key: Ed25519PublicKey | None,
    *,
    anchors: Sequence[Path] = (),
    first: int = 1,
    on_record: Callable[[Mapping[str, Any]], None] = lambda record: None,
) -> Verdict:
    """Walk the chain up to its signed head; ``on_record`` gets every record. Works beside a running
    collector.

    Without a key the head's signature is not looked at, and somebody who may write the files can have made
    the whole log. ``anchors`` are copies of ``head.json``, taken earlier and kept elsewhere. ``first`` is the
    sequence of the first record when the files before it have been archived.

    Raises :class:`AuditBroken` naming the first line that is wrong, :class:`AuditError` when there is no log.
    """
    head = read_head(directory / HEAD, key)
    wanted: dict[int, list[tuple[str, str]]] = {}
    for path in (directory / HEAD, *anchors):
        fixed = head if path == directory / HEAD else read_head(path, key)
        wanted.setdefault(fixed.sequence, []).append((str(path), fixed.hash))
    _check_anchors(wanted, 0, GENESIS, "the beginning")
    aside = Aside(directory, first)
    verdict, sequence, where = Verdict(), first - 1, "the beginning"
    for line in _lines(directory, first, head):
        sequence, where = int(line.record["sequence"]), line.where
        if sequence > head.sequence:
            continue
        _check_anchors(wanted, sequence, line.hash, where)
        _count(verdict, line.record)
        aside.found(line.record)
        on_record(line.record)
    if sequence < head.sequence:
        raise AuditBroken(
            f"the log ends at record {sequence} ({where}), but {directory / HEAD} says that record "
            f"{head.sequence} was written: the end was removed"
        )
    if sequence > head.sequence:
        _wait_for_collector(directory, key, sequence)
    for beyond, files in sorted(wanted.items()):
        if beyond > head.sequence or 0 < beyond < first:
            raise AuditBroken(
                f"{files[0][0]} is of record {beyond}, and the log holds {first} to {head.sequence}: "
                f"an older state of it was put back"
            )
    aside.check()
    return verdict


def _check_anchors(
    wanted: Mapping[int, Sequence[tuple[str, str]]], sequence: int, digest: str, where: str
) -> None:
    for path, expected in wanted.get(sequence, ()):
        if digest != expected:
            raise AuditBroken(
                f"{where}: record {sequence} is not the one of {path}: the log was written anew"
            )


def _count(verdict: Verdict, record: Mapping[str, Any]) -> None:
    kind = str(record["kind"])
    verdict.sequence = int(record["sequence"])
    verdict.files += kind == "file"
    verdict.counts[kind] = verdict.counts.get(kind, 0) + 1
    if kind == "request":
        moment = str(record["time"])
        verdict.first_time = min(verdict.first_time or moment, moment)
        verdict.last_time = max(verdict.last_time, moment)


def _lines(directory: Path, first: int, head: Head) -> Iterator[_Line]:
    """Every line whose hash follows from the one before it."""
    last, sequence = (GENESIS if first == 1 else ""), first - 1
    for path in audit_files(directory):
        with opened(path) as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE_BYTES), b""), 1):
                if sequence >= head.sequence and not line.endswith(b"\n"):
                    return  # being written
                where = f"{path}:{number}"
                record, digest = _parse(line, where)
                sequence += 1
                _check_sequence(record["sequence"], sequence, where)
                if number == 1:
                    _check_opening(record, path.name, where)
                    last = last or record["previous"]
                if chained(last, record) != (line, digest):
                    raise AuditBroken(f"{where}: record {sequence} was changed: its hash does not follow")
                last = digest
                yield _Line(where, record, digest)


def opened(path: Path) -> BinaryIO:
    """Open a file of the log; raises :class:`AuditError`."""
    try:
        return open_regular(path)
    except OSError as error:
        raise AuditError(f"{path} cannot be read ({error.strerror})") from None


def _parse(line: bytes, where: str) -> tuple[dict[str, Any], str]:
    try:
        record = json.loads(line)
        digest = record.pop("hash")
        if type(record["sequence"]) is not int or not {str} >= {type(record["kind"]), type(digest)}:
            raise TypeError
        if not record["kind"].isprintable() or not is_complete(record):
            raise ValueError
        if canonical_json({**record, "hash": digest}) + b"\n" != line:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise AuditBroken(f"{where}: this is not a line that a collector writes") from None
    return record, digest


def _check_sequence(found: int, expected: int, where: str) -> None:
    if found > expected:
        missing = (
            f"record {expected} is" if found == expected + 1 else f"records {expected} to {found - 1} are"
        )
        hint = f"; if they were archived, give --first {found}" if expected == 1 else ""
        raise AuditBroken(f"{where}: {missing} missing before it{hint}")
    if found < expected:
        raise AuditBroken(f"{where}: record {found} stands where record {expected} should: it was put there")


def _check_opening(record: Mapping[str, Any], name: str, where: str) -> None:
    previous = record.get("previous")
    is_hash = isinstance(previous, str) and re.fullmatch("[0-9a-f]{64}", previous)
    if record["kind"] != "file" or record.get("file") != name or not is_hash:
        raise AuditBroken(
            f"{where}: this is not the first line of {name}: lines were removed or a file renamed"
        )


def _wait_for_collector(directory: Path, key: Ed25519PublicKey | None, sequence: int) -> None:
    """Lines behind the head are of a batch that is being committed; the head follows at once."""
    deadline_s = time.monotonic() + _COLLECTOR_S
    while (head := read_head(directory / HEAD, key)).sequence < sequence:
        if time.monotonic() > deadline_s:
            raise AuditBroken(
                f"{directory} holds records up to {sequence} behind its signed head, which ends at "
                f"{head.sequence}: {_why_behind(head, sequence)}"
            )
        time.sleep(_POLL_S)


def _why_behind(head: Head, sequence: int) -> str:
    killed = "the collector was killed while it wrote; start it once"
    older = "they were put there, or an older head was put back; put the newest back"
    if head.next is not None and sequence <= head.next.sequence:
        return killed
    return f"{older}, or {killed}" if head.schema_version == 1 else older
