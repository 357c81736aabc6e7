"""A manifest as a build writes it, for tests that need no build."""

from __future__ import annotations

from typing import Any

from detserve_core.repository.manifest import Manifest

CARD = {
    "name": "tiny",
    "family": "test",
    "input_wh": [32, 32],
    "preprocess": {"resize": "stretch"},
    "labels": ["thing"],
    "thresholds": {"max_detections": 4},
}


def manifest(**fields: Any) -> Manifest:
    """Of an embedded detector ``tiny`` of no files; ``fields`` differ."""
    usual = {
        "name": "tiny",
        "card": CARD,
        "target": "embedded",
        "batch_obstacle": None,
        "versions": {},
        "sha256": {},
        "measured": {},
        "card_sources": {},
        "placement": "steps",
        "precision": "fp32",
        "runtime": "onnxruntime",
        "floats": "f32",
    }
    return Manifest.model_validate(usual | fields)
