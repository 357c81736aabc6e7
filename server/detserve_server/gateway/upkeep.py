"""What a running nginx leaves to who runs it: logs that grow, and the counts of a worker that was killed."""

from __future__ import annotations

import re
import resource
from datetime import datetime, timezone
from pathlib import Path

LOG_BYTES = 64 * 2**20
LOGS_KEPT = 16
_KILLED = re.compile(rb"exited on signal \d+")


def turn_over(log: Path, most_bytes: int, kept: int) -> bool:
    """Rename a log that has grown large to ``LOG.TIME``, and remove all but the ``kept`` newest.

    Returns whether nginx is to be told to open it anew. A name that is taken is not used again.
    """
    try:
        if log.stat().st_size <= most_bytes:
            return False
        turned = log.with_name(f"{log.name}.{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}")
        if turned.exists():
            return False
        log.rename(turned)
        for old in sorted(log.parent.glob(f"{log.name}.*T*Z"))[:-kept]:
            old.unlink(missing_ok=True)
    except OSError:  # a disk that takes no change now may take it at the next look
        return False
    return True


def killed_workers(alerts: Path) -> int:
    """How many workers nginx says were ended by a signal, by its log of alerts."""
    try:
        return len(_KILLED.findall(alerts.read_bytes()))
    except OSError:
        return 0


def with_new_counts(configuration: bytes, killed: int) -> bytes:
    """The configuration with limit_conn's zones named anew, once workers were killed.

    A zone counts the requests under way, and a killed worker's stay counted: nginx takes a zone with its counts
    along as long as its name stays. Rates have no such memory.
    """
    return configuration.replace(b"concurrency_", b"concurrency_%d_" % killed) if killed else configuration


def raise_open_files(wanted: int) -> int:
    """Allow this process and its children up to ``wanted`` open files; returns how many there may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed
