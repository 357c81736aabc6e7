"""A card and a detector's answer, for the tests of client and core."""

from __future__ import annotations

import numpy as np
import pytest

from detserve_client import Card, Detections

LABELS = ("cat", "dog", "bicycle")


@pytest.fixture
def card() -> Card:
    return Card.model_validate(
        {
            "name": "pets",
            "family": "yolox",
            "input_wh": (64, 64),
            "preprocess": {"resize": "stretch"},
            "labels": list(LABELS),
            "thresholds": {"max_detections": 5},
        }
    )


@pytest.fixture
def found() -> Detections:
    return Detections(
        boxes=np.array([[10, 20, 110, 70], [0, 0, 5.5, 8.25]], np.float32),
        scores=np.array([0.86, 0.31], np.float32),
        classes=np.array([1, 0], np.int32),
        names=LABELS,
    )
