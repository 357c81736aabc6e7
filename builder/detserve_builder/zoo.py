"""The detectors that come with detserve, by name."""

from __future__ import annotations

from pathlib import Path

_PLACES = (
    Path(__file__).parent / "zoo",  # in an installed wheel
    Path(__file__).parents[2] / "zoo",  # in a checkout
)


def find_in_zoo(name: str) -> Path | None:
    """The ONNX file of zoo detector ``name``, or None."""
    candidates = (place / name / "checkpoint.onnx" for place in _PLACES)
    return next((path for path in candidates if path.is_file()), None)
