"""What a user gets from ``quantize_static`` as it comes, to be shown beside the searched INT8."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detserve_builder.precision.gate import Candidate
from detserve_builder.precision.request import Precision
from detserve_builder.quantise.calibration import CalibrationSource

if TYPE_CHECKING:
    import onnx


def plain_quantize_static(model: onnx.ModelProto, source: CalibrationSource) -> Candidate:
    """ONNX Runtime's default settings on the whole prepared ``model``, over the same pictures."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """The pictures in ONNX Runtime's form."""

        def __init__(self) -> None:
            self.images = source.images()

        def get_next(self) -> dict[str, Any] | None:
            """One picture, or None at the end."""
            image = next(self.images, None)
            return None if image is None else {"images": image}

    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() as folder:
            onnx.save_model(model, Path(folder) / "float.onnx")
            quantize_static(Path(folder) / "float.onnx", Path(folder) / "int8.onnx", Reader())
            quantised = onnx.load(Path(folder) / "int8.onnx")
    finally:
        logger.setLevel(level)
    return Candidate("int8 plain quantize_static", Precision.INT8, quantised, {}, baseline=True)
