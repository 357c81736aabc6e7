"""From audit records to what each client used on each day: what a bill is made from.

``compute_s`` sums ``upstream_s``: the seconds for which Triton had the client's requests, waiting in its
queue included. It is time, not processor time: a request that waits behind others costs more. ``inferences``
counts the requests with pictures that succeeded. How many pictures were in one of them the gateway does not
see, for a batch is inside the message: the detserve client sends one each, so ``inferences`` is the number
of pictures for it, and the least number for any other client. ``bytes_in`` and ``compute_s`` grow with the
pictures either way.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from datetime import date
from typing import Any

from detserve_server.audit.record import Outcome, is_inference


@dataclass
class Use:
    """One client's day (UTC). ``client`` is "" for requests without a known client."""

    day: str
    client: str
    requests: int = 0
    not_ok: int = 0
    inferences: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    compute_s: float = 0.0


class Usage:
    """Adds records up; give :meth:`update` to :func:`verify` so that nothing changed is billed."""

    def __init__(self, since: date | None = None, until: date | None = None) -> None:
        self.untrusted = 0
        self.gaps = 0
        self._since = since.isoformat() if since else ""
        self._until = until.isoformat() if until else "~"
        self._uses: dict[tuple[str, str], Use] = {}

    def update(self, record: Mapping[str, Any]) -> None:
        """Take one record; those of days outside ``since`` to ``until``, both included, are left out."""
        self.untrusted += record["kind"] == "untrusted"
        self.gaps += record["kind"] == "gap"
        if record["kind"] != "request":
            return
        day, client = str(record["time"])[:10], str(record["client"])
        if not self._since <= day <= self._until:
            return
        use = self._uses.setdefault((day, client), Use(day, client))
        ok = record["outcome"] == Outcome.OK.value
        use.requests += 1
        use.not_ok += not ok
        use.inferences += ok and is_inference(record)
        use.bytes_in += record["bytes_in"]
        use.bytes_out += record["bytes_out"]
        use.compute_s += record["upstream_s"]

    def rows(self) -> list[Use]:
        """By day, then client."""
        return [use for _, use in sorted(self._uses.items())]


def usage_csv(rows: list[Use]) -> str:
    """One line for each row; a client name that a spreadsheet would run as a formula gets an apostrophe."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(Use)])
    for use in rows:
        day, client, *figures, compute_s = astuple(use)
        writer.writerow([day, _inert(client), *figures, f"{compute_s:.3f}"])
    return text.getvalue()


def _inert(text: str) -> str:
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
