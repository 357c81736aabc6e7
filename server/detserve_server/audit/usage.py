"""From audit records to what each client used on each day: what a bill is made from.

``compute_s`` sums ``upstream_s``: the seconds for which Triton had the client's requests, waiting in its
queue included. It is time, not processor time: a request that waits behind others costs more. ``inferences``
counts the requests with pictures that succeeded. How many pictures were in one of them the gateway does not
see, for a batch is inside the message: the detserve client sends one each, so ``inferences`` is the number
of pictures for it, and the least number for any other client. ``bytes_in`` and ``compute_s`` grow with the
pictures either way.

Where the gateway logs one refusal in n, that line counts n times in ``requests`` and ``not_ok``, which are an
estimate then; bytes and seconds are those of the lines there are. Keys that were only claimed, whose ids any
sender can make up, are no rows: their requests are those without a known client.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import date
from typing import Any

from detserve_server.audit.record import Ending, is_inference


@dataclass
class Use:
    """One client's day (UTC), or one key's. ``client`` is "" for requests without a known client.

    ``key`` is "" for requests without a known key, and where the sums are by client.
    """

    day: str
    client: str
    key: str = ""
    requests: int = 0
    not_ok: int = 0
    inferences: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    compute_s: float = 0.0


class Usage:
    """Adds records up; give :meth:`update` to :func:`verify` so that nothing changed is billed."""

    def __init__(self, since: date | None = None, until: date | None = None, *, by_key: bool = False) -> None:
        self.untrusted = 0
        self.gaps = 0
        self.sampled = 0
        self._by_key = by_key
        self._since = since.isoformat() if since else ""
        self._until = until.isoformat() if until else "~"
        self._uses: dict[tuple[str, str, str], Use] = {}

    def update(self, record: Mapping[str, Any]) -> None:
        """Take one record; those of days outside ``since`` to ``until``, both included, are left out."""
        self.untrusted += record["kind"] == "untrusted"
        self.gaps += record["kind"] == "gap"
        if record["kind"] != "request":
            return
        day, client = str(record["time"])[:10], str(record["client"])
        if not self._since <= day <= self._until:
            return
        key = str(record.get("key", "")) if self._by_key else ""
        use = self._uses.setdefault((day, client, key), Use(day, client, key))
        ok = record["outcome"] == Ending.OK.value
        one_in = int(record.get("one_in", 1))
        self.sampled += one_in > 1
        use.requests += one_in
        use.not_ok += 0 if ok else one_in
        use.inferences += ok and is_inference(record)
        use.bytes_in += record["bytes_in"]
        use.bytes_out += record["bytes_out"]
        use.compute_s += record["upstream_s"]

    def rows(self) -> list[Use]:
        """By day, then client, then key."""
        return [use for _, use in sorted(self._uses.items())]


def usage_csv(rows: list[Use], *, by_key: bool = False) -> str:
    """One line for each row; a client name that a spreadsheet would run as a formula gets an apostrophe."""
    text = io.StringIO()
    columns = [field.name for field in fields(Use) if by_key or field.name != "key"]
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for use in rows:
        writer.writerow({**asdict(use), "client": _inert(use.client), "compute_s": f"{use.compute_s:.3f}"})
    return text.getvalue()


def _inert(text: str) -> str:
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
