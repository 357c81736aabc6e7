"""Spans of time as operators write them: ``90d``, ``12h``, ``30m``, ``45s``."""

from __future__ import annotations

import re
from datetime import timedelta

from detserve_server.errors import DurationError

_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}


def parse_duration(text: str) -> timedelta:
    """Read a span; raises :class:`DurationError`."""
    found = re.fullmatch(r"(\d{1,6})([dhms])", text.strip())
    if not found:
        raise DurationError(f"got {text!r}, expected a number and d, h, m or s, such as 90d or 12h")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})
