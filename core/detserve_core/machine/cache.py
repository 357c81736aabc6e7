"""Where detserve keeps what it can make again: compiled backends, calibration, programs fetched for perf."""

from __future__ import annotations

import os
from pathlib import Path

from detserve_core.errors import OutputError


def cache_folder() -> Path:
    """``~/.cache/detserve``, or under XDG_CACHE_HOME where that is set; it may not exist yet.

    Raises:
        OutputError: neither XDG_CACHE_HOME nor a home folder is known.
    """
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given) / "detserve"
    try:
        return Path.home() / ".cache/detserve"
    except RuntimeError:  # a user without HOME and without an entry in passwd, as in OpenShift
        raise OutputError(
            "there is no home folder to keep a cache in; set XDG_CACHE_HOME to a folder that can be written"
        ) from None


def made_in_cache(folder: Path) -> Path:
    """The folder itself, in the cache, made with those above it.

    Raises:
        OutputError: it cannot be made or written, as where the home folder belongs to somebody else.
    """
    reason = "it belongs to somebody else"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(
            f"{folder} cannot be used as a cache ({reason}); "
            "set XDG_CACHE_HOME to a folder that can be written"
        )
    return folder
