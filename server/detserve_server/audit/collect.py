"""The collector: access log -> ledger."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detserve_server.audit.access_log import AccessLog, Batch
from detserve_server.audit.ledger import FILE_BYTES, Ledger, open_ledger
from detserve_server.errors import AuditError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_POLL_S = 0.5
_RETRY_S = 2.0
_LAST_READ_S = 8.0  # a container is killed ten seconds after it was told to end


def collect(
    log: Path,
    directory: Path,
    key: Ed25519PrivateKey,
    *,
    once: bool,
    ending: Callable[[], bool] = lambda: False,
    file_bytes: int = FILE_BYTES,
    on_note: Callable[[str], None],
    on_record: Callable[[Mapping[str, Any]], None] = lambda record: None,
    on_caught_up: Callable[[float], None] = lambda since_s: None,
) -> int:
    """Chain what the gateway writes to ``log``, until ``ending`` or, with ``once``, until nothing is left.

    Once ``ending()`` is true, what was written until then is still read, for eight seconds at most.
    ``on_note`` is told one sentence when something had to be fixed, when the folder cannot be written (the
    collector waits there until it can, unless ``once`` or ``ending``) and when it goes on. ``on_record`` is
    told every record that is safely written, and ``on_caught_up`` a time of ``time.monotonic()`` until which
    all that the gateway wrote is. Returns the number of records collected.

    Raises :class:`AuditError` (the log or the folder cannot be used; with ``once`` or ``ending``: the disk is
    full) and :class:`AuditBroken` (the audit log was changed).
    """
    if once and not log.exists():
        raise AuditError(f"there is no access log {log}; give the file that the gateway writes")
    access_log, collected, end_s = AccessLog(log), 0, math.inf
    try:
        with open_ledger(directory, key, file_bytes=file_bytes, on_note=on_note) as ledger:
            while True:
                if ending():
                    end_s = min(end_s, time.monotonic() + _LAST_READ_S)
                read_s = time.monotonic()
                batch = access_log.read(ledger.head.position)
                if batch.records or batch.position != ledger.head.position:
                    _commit(ledger, batch, lambda: once or ending(), on_note)
                    collected += len(batch.records)
                    for record in batch.records:
                        on_record(record)
                if batch.whole:
                    on_caught_up(read_s)
                if batch.records and time.monotonic() < end_s:
                    continue
                if once or end_s < math.inf:
                    return collected
                time.sleep(_POLL_S)
    finally:
        access_log.close()


def _commit(
    ledger: Ledger, batch: Batch, gives_up: Callable[[], bool], on_note: Callable[[str], None]
) -> None:
    waiting = False
    while True:
        try:
            ledger.append(batch.records, batch.position)
        except AuditError as error:
            if gives_up():
                raise
            if not waiting:
                on_note(f"{error}; waiting")
            waiting = True
            time.sleep(_RETRY_S)
            continue
        if waiting:
            on_note("the audit log can be written again; going on")
        return
