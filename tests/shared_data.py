"""Real detectors and pictures beside the checkout; tests that need them skip where they are absent."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason="needs ../shared/data (real detectors and pictures), which is absent"
)
YOLOX = SHARED / "models/anchor_free/yolox_nano_416x416.onnx"
FASTESTDET = SHARED / "models/anchor_free/FastestDet.onnx"
DARKNET = SHARED / "models/darknet"
YOLO_FASTEST = DARKNET / "yolo-fastest-1.1-xl.cfg"
SINGLE = SHARED / "images/single"
VAL64 = SHARED / "datasets/coco_val64"
