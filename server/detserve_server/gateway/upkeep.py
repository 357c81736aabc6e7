"""What a running nginx leaves to who runs it: logs that grow, and the counts of a worker that was killed."""

from __future__ import annotations

import re
import resource
from datetime import datetime, timezone
from pathlib import Path

from detserve_server.gateway.configuration import open_files

#: In nginx's run folder; nothing but its alerts are in it.
ALERTS = "alerts.log"

_ZONES = re.compile(rb"^ *limit_conn(?:_zone \S+)? (?:zone=)?concurrency_", re.MULTILINE)
_LOG_BYTES = 64 * 2**20
_LOGS_KEPT = 16
_ERROR_LOG_BYTES = 8 * 2**20


def turn_logs_over(access_log: Path, run_dir: Path) -> bool:
    """Keep nginx's logs from filling the disk; returns whether nginx is to open them anew."""
    turned = [turn_over(access_log, _LOG_BYTES, _LOGS_KEPT)]
    turned += [turn_over(run_dir / name, _ERROR_LOG_BYTES, 1) for name in ("error.log", ALERTS)]
    return any(turned)


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
        with alerts.open("rb") as lines:
            return sum(b"exited on signal" in line for line in lines)
    except OSError:
        return 0


def with_new_counts(configuration: bytes, killed: int) -> bytes:
    """The configuration with limit_conn's zones named anew, once workers were killed.

    A zone counts the requests in flight, and a killed worker's stay counted: nginx keeps a zone with its
    counts for as long as its name stays. Rates have no such memory.
    """
    return _ZONES.sub(rb"\g<0>%d_" % killed, configuration) if killed else configuration


def places(wanted: int) -> int:
    """How many of ``wanted`` places of a worker this machine's limit of open files allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= open_files(wanted):
        return wanted
    return max(64, (hard - open_files(0)) // 2)
