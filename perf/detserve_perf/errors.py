"""What the perf package raises on purpose, beside the client's own errors."""

from __future__ import annotations

from detserve_core.errors import DetserveError


class MeasurementError(DetserveError):
    """A measurement cannot be made, or it was made and cannot be trusted."""
