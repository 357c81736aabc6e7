"""Whether records that a collector moved aside came again from the access log."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from detserve_server.audit.chain import LONGEST_LINE_BYTES, aside_files
from detserve_server.errors import AuditBroken, AuditError
from detserve_server.regular_file import open_regular


class Aside:
    """What lies aside of a log from record ``first`` on; tell :meth:`found` every record of the log."""

    def __init__(self, directory: Path, first: int) -> None:
        self._files = {path: Counter(_marks(path, first)) for path in aside_files(directory)}

    def found(self, record: Mapping[str, Any]) -> None:
        """Take a record of the log."""
        if self._files and (mark := _mark(record)):
            for marks in self._files.values():
                if marks[mark]:
                    marks[mark] -= 1

    def check(self) -> None:
        """Raises :class:`AuditBroken` when a record lies aside and is not in the log."""
        for path, marks in self._files.items():
            if missing := (+marks).total():
                raise AuditBroken(
                    f"{path} holds {missing} records that are not in the log: an older head was put back, or "
                    f"the access log was gone before they were read again; keep that file elsewhere"
                )


def _marks(path: Path, first: int) -> Iterator[str]:
    try:
        with open_regular(path) as file:
            for line in iter(lambda: file.readline(LONGEST_LINE_BYTES), b""):
                try:
                    record = json.loads(line)
                    if record["sequence"] >= first and (mark := _mark(record)):
                        yield mark
                except (ValueError, KeyError, TypeError, RecursionError):  # torn
                    continue
    except OSError as error:
        raise AuditError(f"{path} cannot be read ({error.strerror})") from None


def _mark(record: Mapping[str, Any]) -> str:
    """By what a record is known again; "" for one that is not of a line of the access log."""
    match record["kind"]:
        case "request":
            return f"{record['request_id']} {record['time']}"
        case "untrusted":
            return str(record["sha256"])
    return ""
