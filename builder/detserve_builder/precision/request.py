"""What a build is asked for beyond the prepared ONNX."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from detserve_builder.errors import BuildError


class Precision(str, Enum):
    """What the network's own layers compute in; normalisation, decode and top-K are float in each."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    INT16 = "int16"


@dataclass(frozen=True)
class PrecisionRequest:
    """The options of ``detserve build`` that concern precision; None is "not said"."""

    precision: Precision | None = None
    calibrate: Path | None = None
    force_calibration: bool = False

    def __post_init__(self) -> None:
        """Refuse options that contradict each other; raises :class:`BuildError`."""
        chosen = self.precision or Precision.FP32
        if chosen is not Precision.FP32 and self.calibrate is None:
            raise BuildError(
                f"--precision {chosen.value} is measured on pictures; name a folder of pictures like "
                "those to be detected in with --calibrate"
            )
