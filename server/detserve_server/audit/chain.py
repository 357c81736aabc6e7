"""The chain: how a record becomes a line, which files there are, and the signed head."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from detserve_core.card import first_mistake
from detserve_server.errors import AuditBroken, AuditError
from detserve_server.regular_file import read_regular
from detserve_server.signing.keys import canonical_json, fingerprint, is_signed, signature

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

HEAD = "head.json"

#: A collector writes no longer line; what is longer is read in parts, none of which follows.
LONGEST_LINE_BYTES = 2**20
GENESIS = hashlib.sha256(b"detserve audit log 1").hexdigest()
_SUBJECT = "audit head 1"
_LARGEST_HEAD_BYTES = 2**24  # its position has 50 bytes for each rotated log
_FINGERPRINT = re.compile("[0-9a-f]{16}")
_FILE = re.compile(r"audit-(\d{4}-\d\d-\d\d)(?:\.([1-9]\d*))?\.jsonl")

_Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Position:
    """How far the access log has been read.

    ``offsets_bytes`` maps the identity of each log file that still exists to the end of its last line read;
    ``current`` is the identity of the one that the gateway writes to.
    """

    offsets_bytes: Mapping[str, int] = field(default_factory=dict)
    current: str = ""


class End(BaseModel):
    """An end of the chain: its last record, the ``bytes`` of its ``file`` up to there, and the position."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sequence: Annotated[int, Field(ge=0)] = 0
    hash: _Hash = GENESIS
    file: Annotated[str, Field(pattern=r"^(audit-[0-9.-]+\.jsonl)?$")] = ""
    bytes: Annotated[int, Field(ge=0)] = 0
    position: Position = Position()


class Head(End):
    """The committed end of the chain, as ``head.json`` signs it.

    ``next`` is the end of the batch whose lines are being written: without it no line behind the head is of a
    collector that was killed, so a newer head was there. Version 1 did not say it.
    """

    schema_version: Annotated[int, Field(ge=1, le=2)] = 2
    next: End | None = None

    @model_validator(mode="after")
    def _version_1_has_no_next(self) -> Head:
        if self.schema_version == 1 and self.next is not None:
            raise ValueError("version 1 of a head has no next")
        return self

    def before(self, end: End) -> Head:
        """The same head while the lines up to ``end`` are written."""
        return self.model_copy(update={"schema_version": 2, "next": end})

    def statement(self) -> dict[str, Any]:
        """What is signed."""
        return self.model_dump(mode="json", exclude={"next"} if self.schema_version == 1 else None)


def chained(previous: str, body: Mapping[str, Any]) -> tuple[bytes, str]:
    """A record's line, with its line break, and its hash; ``previous`` is the hash of the record before."""
    digest = hashlib.sha256(previous.encode() + canonical_json(body)).hexdigest()
    return canonical_json({**body, "hash": digest}) + b"\n", digest


def file_name(day: str, number: int) -> str:
    """The name of a day's file: the first has no number."""
    return f"audit-{day}.{number}.jsonl" if number else f"audit-{day}.jsonl"


def day_and_number(name: str) -> tuple[str, int]:
    """What :func:`file_name` made the name of; ``("", 0)`` for no name at all."""
    found = _FILE.fullmatch(name)
    return (found[1], int(found[2] or 0)) if found else ("", 0)


def audit_files(directory: Path) -> list[Path]:
    """The files of a log in the order in which they were written."""
    found = [
        path for path in directory.glob("audit-*.jsonl") if _FILE.fullmatch(path.name) and path.is_file()
    ]
    return sorted(found, key=lambda path: day_and_number(path.name))


def aside_files(directory: Path) -> list[Path]:
    """Ends of files that a collector moved aside."""
    found = [path for path in directory.glob("audit-*.jsonl.aside-*") if path.is_file()]
    return sorted(path for path in found if _FILE.fullmatch(path.name.partition(".aside-")[0]))


def files_behind(directory: Path, name: str) -> list[Path]:
    """The files that were written after the one called ``name``."""
    return [path for path in audit_files(directory) if day_and_number(path.name) > day_and_number(name)]


def write_head(directory: Path, head: Head, key: Ed25519PrivateKey) -> None:
    """Sign and replace ``head.json`` durably; raises ``OSError`` and leaves the old one when it cannot."""
    statement = head.statement()
    content = {
        **statement,
        "key": fingerprint(key.public_key()),
        "signature": signature(key, _SUBJECT, statement),
    }
    temporary = directory / f".{HEAD}.part"
    try:
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:
            file.write(json.dumps(content, indent=1).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(directory / HEAD)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(directory)


def read_head(path: Path, key: Ed25519PublicKey | None) -> Head:
    """Read a ``head.json``, or a copy of one; without a key the signature is not looked at.

    Raises :class:`AuditError` when there is none, :class:`AuditBroken` when it is not signed with ``key``.
    """
    try:
        content = read_regular(path, _LARGEST_HEAD_BYTES)
    except OSError as error:
        raise AuditError(
            f"{path} cannot be read ({error.strerror}); expected the signed end of an audit log, "
            f"as written by: detserve audit collect"
        ) from None
    try:
        fields = json.loads(content)
        signed_by, signed = fields.pop("key"), fields.pop("signature")
        if not (isinstance(signed, str) and _FINGERPRINT.fullmatch(signed_by)):
            raise ValueError
        head = Head.model_validate(fields)
    except ValidationError as error:
        raise AuditBroken(first_mistake(error, str(path))) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise AuditBroken(f"{path} is not a head of an audit log; it has been changed") from None
    if key is None:
        return head
    if not is_signed(key, _SUBJECT, head.statement(), signed):
        whose = fingerprint(key)
        other = "" if signed_by == whose else f" (it names the key {signed_by})"
        raise AuditBroken(
            f"{path} is not signed with the key {whose}{other}; it was changed, or give the key of this log"
        )
    return head


def sync_directory(directory: Path) -> None:
    """Make new names in a folder last."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
