"""What a build is asked for beyond the prepared ONNX."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from detserve_builder.errors import BuildError
from detserve_builder.prune.weights import parse_pruning
from detserve_builder.runtime import Runtime, require

MAX_AP_DROP = 0.01


class Precision(str, Enum):
    """What the network's own layers compute in; normalisation, decode and top-K are float in each."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    INT8 = "int8"
    INT16 = "int16"


@dataclass(frozen=True)
class PrecisionRequest:
    """The options of ``detserve build`` that concern precision; None is "not said".

    Without ``precision`` but with ``images`` to measure on, every precision is tried and the fastest that
    passes is built; ``prune`` is then one more candidate.
    """

    precision: Precision | None = None
    prune: str | None = None
    calibrate: Path | None = None
    force_calibration: bool = False
    evaluate: Path | None = None
    images: Path | None = None
    max_ap_drop: float | None = None
    min_speedup: float | None = None
    runtime: Runtime | None = None

    def __post_init__(self) -> None:
        """Refuse options that do not go together; raises :class:`BuildError`."""
        if self.prune is not None:
            parse_pruning(self.prune)
        self._refuse_runtime_without_it()
        if self.images is None:
            self._refuse_gate_without_dataset()
        if self.needs_pictures and self.calibrate is None:
            wish = f"--precision {self.precision.value}" if self.precision else "the search"
            if self.prune:
                wish = f"--prune {self.prune}"
            raise BuildError(
                f"{wish} is measured on pictures; name a folder of pictures like those to be detected in "
                "with --calibrate"
            )

    @property
    def needs_pictures(self) -> bool:
        """Whether anything is made or measured that takes pictures."""
        calibrated = self.precision in (Precision.FP16, Precision.INT8, Precision.INT16)
        measured = self.images is not None and self.precision is not Precision.FP32
        return calibrated or self.prune is not None or measured

    @property
    def searches_all(self) -> bool:
        """Whether the build is free to choose."""
        return self.precision is None

    def refuse_without_use(self) -> None:
        """Refuse pictures that nothing asks for; raises :class:`BuildError`."""
        if self.calibrate is not None and not self.needs_pictures:
            raise BuildError(
                "--calibrate is of no use to fp32; ask for --precision fp16, int8 or int16, for --prune, or "
                "give --images to choose by measurement"
            )

    def _refuse_runtime_without_it(self) -> None:
        if self.precision is Precision.BF16 and self.runtime is Runtime.ONNXRUNTIME:
            raise BuildError("ONNX Runtime has no bf16 on x86 CPUs; leave --runtime out or say openvino")
        if self.runtime is Runtime.OPENVINO and self.precision in (Precision.FP16, Precision.INT16):
            raise BuildError(
                f"OpenVINO computes {self.precision.value} in fp32 on a CPU; ask it for bf16 or int8, or "
                "leave --runtime out"
            )
        if self.runtime is Runtime.OPENVINO or self.precision is Precision.BF16:
            require(Runtime.OPENVINO)

    def _refuse_gate_without_dataset(self) -> None:
        for option, said in (
            ("--evaluate", self.evaluate),
            ("--max-ap-drop", self.max_ap_drop),
            ("--min-speedup", self.min_speedup),
        ):
            if said is not None:
                raise BuildError(
                    f"{option} needs pictures to measure on; name their folder with --images, and their "
                    "labels with --evaluate where there are any"
                )
