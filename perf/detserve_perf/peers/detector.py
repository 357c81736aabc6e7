"""What every peer does with a picture: the repository's own steps. Runs in the peers' environment."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detserve_core.repository.served_steps import open_steps

CORES = int(os.environ.get("DETSERVE_PEER_CORES", "1"))
PORT = int(os.environ.get("DETSERVE_PEER_PORT", "0"))

Detect = Callable[[bytes], Any]


def open_detector() -> Detect:
    """encoded picture -> the padded outputs of the postprocess step; one ONNX Runtime session, one thread."""
    import cv2

    cv2.setNumThreads(1)  # as many of these run as there are cores
    repository = Path(os.environ["DETSERVE_PEER_REPOSITORY"])
    (detect,) = open_steps(repository, os.environ["DETSERVE_PEER_MODEL"], 1)
    return detect


def as_json(outputs: Any) -> dict[str, Any]:
    """The detections without their padding, as JSON holds them."""
    num, boxes, scores, classes = outputs
    count = int(num[0])
    return {
        "boxes": boxes[:count].tolist(),
        "scores": scores[:count].tolist(),
        "classes": classes[:count].tolist(),
    }
