"""What reading and scoring datasets raises on purpose."""

from __future__ import annotations

from detserve_core.errors import DetserveError


class DatasetError(DetserveError):
    """Annotated pictures cannot be read, or contradict themselves or the detector's card; one sentence."""
