"""Results appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from detserve_perf.errors import MeasurementError


def write_text_atomically(path: Path, text: str) -> None:
    """Write ``text`` to a temporary sibling of ``path`` and move it into place.

    Parent folders are made. Raises :class:`MeasurementError` when the place cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, sibling = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise MeasurementError(
            f"{path} cannot be written ({error.strerror}); choose another --output"
        ) from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as stream:
            stream.write(text)
        Path(sibling).chmod(0o644)
        Path(sibling).replace(path)
    except BaseException:
        Path(sibling).unlink(missing_ok=True)
        raise
