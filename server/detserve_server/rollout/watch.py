"""What the clients got while the new server had its share, by the gateway's own log."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from detserve_server.audit.record import Ending, is_inference, record_of
from detserve_server.errors import RolloutError
from detserve_server.rollout.stop import Stop

_POLL_S = 0.5
_ENOUGH = 50


@dataclass
class Seen:
    """Inference requests that were answered, and how many of them the server failed."""

    requests: int = 0
    failed: int = 0

    def breach(self, max_failed: float) -> str:
        """What is wrong, "" for nothing. ``max_failed`` is a share, 0 to 1."""
        if not self.requests or self.failed / self.requests <= max_failed:
            return ""
        return f"{self.failed} of {self.requests} requests failed, allowed are {max_failed:.1%}"


def watch(access_log: Path, seconds: float, max_failed: float, stop: Stop) -> Seen:
    """Follow the log for a while; ends early once enough requests show too many failures, or at ``stop``.

    Raises :class:`RolloutError` when the log cannot be read.
    """
    seen, deadline_s = Seen(), time.monotonic() + seconds
    try:
        with access_log.open("rb") as file:
            file.seek(0, 2)
            rest = b""
            while True:
                *lines, rest = (rest + file.read()).split(b"\n")
                for line in lines:
                    record = record_of(line)
                    if record["kind"] == "request" and is_inference(record):
                        seen.requests += 1
                        seen.failed += record["outcome"] == Ending.FAILED.value
                over = seen.requests >= _ENOUGH and seen.breach(max_failed)
                if over or stop.wanted or time.monotonic() >= deadline_s:
                    return seen
                time.sleep(min(_POLL_S, max(0.0, deadline_s - time.monotonic())))
    except OSError as error:
        raise RolloutError(
            f"the gateway's access log {access_log} cannot be read ({error.strerror}); "
            f"say where it is with --access-log"
        ) from None
