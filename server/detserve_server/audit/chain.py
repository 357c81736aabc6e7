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

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from detserve_client.card import first_mistake
from detserve_server.errors import AuditBroken, AuditError
from detserve_server.signing.keys import canonical_json, fingerprint, is_signed, signature

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

HEAD = "head.json"
GENESIS = hashlib.sha256(b"detserve audit log 1").hexdigest()
_SUBJECT = "audit head 1"
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


class Head(BaseModel):
    """The end of the chain: its last record, the committed ``bytes`` of its ``file``, and the position."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Annotated[int, Field(ge=1, le=1)] = 1
    sequence: Annotated[int, Field(ge=0)] = 0
    hash: _Hash = GENESIS
    file: Annotated[str, Field(pattern=r"^(audit-[0-9.-]+\.jsonl)?$")] = ""
    bytes: Annotated[int, Field(ge=0)] = 0
    position: Position = Position()


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


def write_head(directory: Path, head: Head, key: Ed25519PrivateKey) -> None:
    """Sign and replace ``head.json`` durably; raises ``OSError`` and leaves the old one when it cannot."""
    statement = head.model_dump(mode="json")
    content = {
        **statement,
        "key": fingerprint(key.public_key()),
        "signature": signature(key, _SUBJECT, statement),
    }
    temporary = directory / f".{HEAD}.part"
    try:
        with temporary.open("wb") as file:
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
        content = path.read_bytes()
    except OSError as error:
        raise AuditError(
            f"{path} cannot be read ({error.strerror}); expected the signed end of an audit log, "
            f"as written by: detserve audit collect"
        ) from None
    try:
        fields = json.loads(content)
        signed_by, signed = str(fields.pop("key")), fields.pop("signature")
        head = Head.model_validate(fields)
    except ValidationError as error:
        raise AuditBroken(first_mistake(error, str(path))) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise AuditBroken(f"{path} is no head of an audit log; it has been changed") from None
    if key is None:
        return head
    if not is_signed(key, _SUBJECT, head.model_dump(mode="json"), signed):
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
