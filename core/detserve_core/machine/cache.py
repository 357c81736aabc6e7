"""Where detserve keeps what it can make again: compiled backends, calibration, programs fetched for perf."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``~/.cache/detserve``, or under XDG_CACHE_HOME where that is set; it may not exist yet.

    Raises:
        RuntimeError: neither XDG_CACHE_HOME nor a home folder is known.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "detserve"
