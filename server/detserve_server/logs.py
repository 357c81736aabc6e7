"""From a dead server's log to one sentence."""

from __future__ import annotations


def cause_of_death(log: str) -> str:
    """The reason the server gave for not starting, without a full stop."""
    lines = [line for line in log.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it wrote nothing"
