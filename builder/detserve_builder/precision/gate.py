"""Candidates, what was measured of them, and what a candidate must show to be shipped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from detserve_builder.precision.request import Precision
from detserve_builder.runtime import Runtime
from detserve_builder.steps.detserve_detector import open_session

if TYPE_CHECKING:
    import onnx

    from detserve_builder.steps.detserve_detector import Session


@dataclass(frozen=True)
class Candidate:
    """A model that may be shipped, or a ``baseline`` shown beside. ``settings`` say how it was made.

    ``runtime`` is what runs it where the target is this machine's CPU.
    """

    label: str
    precision: Precision
    model: onnx.ModelProto = field(repr=False)
    settings: dict[str, Any]
    baseline: bool = False
    runtime: Runtime = Runtime.ONNXRUNTIME

    @property
    def floats(self) -> str:
        """What float layers are computed in: all of them in f32, or in bf16 where OpenVINO may."""
        reduced = self.runtime is Runtime.OPENVINO and self.precision is not Precision.FP32
        return "bf16" if reduced else "f32"

    def open(self, *, threads: int = 0) -> Session:
        """As it will be served."""
        content = self.model.SerializeToString()
        return open_session(content, threads, runtime=self.runtime.value, floats=self.floats)


@dataclass(frozen=True)
class Measured:
    """A candidate with its figures.

    ``ap`` is 0..1 and ``ap_drop`` what it lacks to the float model's. ``latency_ms`` is in-process at batch
    1, ``speedup`` the float model's over it in the same run; None where the target's device is not here.
    """

    candidate: Candidate
    ap: float
    ap_drop: float
    latency_ms: float | None
    speedup: float | None

    @property
    def size_bytes(self) -> int:
        """Of the ONNX file."""
        return int(self.candidate.model.ByteSize())

    def figures(self) -> dict[str, Any]:
        """What the manifest keeps."""
        return {
            "label": self.candidate.label,
            "precision": self.candidate.precision.value,
            "runtime": self.candidate.runtime.value,
            "ap": round(self.ap, 4),
            "ap_drop": round(self.ap_drop, 4),
            "latency_ms": None if self.latency_ms is None else round(self.latency_ms, 3),
            "speedup": None if self.speedup is None else round(self.speedup, 3),
            "size_bytes": self.size_bytes,
            **self.candidate.settings,
        }


Measure = Callable[[Candidate], Measured]


@dataclass(frozen=True)
class Gate:
    """At most ``max_ap_drop`` worse than the float model, and at least ``min_speedup`` times as fast."""

    max_ap_drop: float
    min_speedup: float

    def accurate(self, measured: Measured) -> bool:
        """Whether the AP is kept."""
        return measured.ap_drop <= self.max_ap_drop

    def fast(self, measured: Measured) -> bool:
        """Whether the speed is reached, or cannot be told here."""
        return measured.speedup is None or measured.speedup >= self.min_speedup

    def passes(self, measured: Measured) -> bool:
        """Whether the candidate may be shipped."""
        return self.accurate(measured) and self.fast(measured)

    def demand(self, figure: str) -> str:
        """What is asked, for a sentence."""
        return f"{figure} drop at most {self.max_ap_drop:g} and speed-up at least {self.min_speedup:g}"

    def fastest(self, candidates: list[Measured]) -> Measured | None:
        """Of those that pass, the fastest; where speed is not known, the smallest drop."""
        passing = [m for m in candidates if self.passes(m) and not m.candidate.baseline]
        return max(passing, key=lambda m: (m.speedup or 0.0, -m.ap_drop), default=None)


def pareto_front(candidates: list[Measured]) -> list[Measured]:
    """Those with a known latency that no other beats in both AP and latency, fastest first."""
    front: list[Measured] = []
    timed = [measured for measured in candidates if measured.latency_ms is not None]
    for measured in sorted(timed, key=lambda m: (-(m.speedup or 0.0), -m.ap)):
        if not front or measured.ap > front[-1].ap:
            front.append(measured)
    return front
