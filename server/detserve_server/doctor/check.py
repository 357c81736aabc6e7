"""One question to a repository, compose file or server, and what was found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One answer. ``fix`` is empty when all is well; ``stops`` says whether serving would fail otherwise."""

    name: str
    found: str
    fix: str = ""
    stops: bool = True

    @property
    def passed(self) -> bool:
        """Nothing to fix."""
        return not self.fix
