"""The detectors that come with detserve, by name."""

from __future__ import annotations

from pathlib import Path

COMMITTED = ("codes_rcnn", "codes_ssd", "codes_yolo")
_PLACES = (
    Path(__file__).parent,  # in an installed wheel
    Path(__file__).parents[3] / "zoo",  # in a checkout
)


def committed_checkpoint(name: str) -> Path | None:
    """The ONNX file of committed detector ``name``, or None."""
    candidates = (place / name / "checkpoint.onnx" for place in _PLACES)
    return next((path for path in candidates if path.is_file()), None)


def sample_pictures() -> Path:
    """The folder of eight scenes with codes that come with the detectors."""
    return next(place / "samples" for place in _PLACES if (place / "samples").is_dir())
