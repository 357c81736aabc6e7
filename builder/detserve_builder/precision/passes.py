"""The precision passes a build asks for: candidates, measured against the float model, and the choice."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detserve_builder.errors import BuildError
from detserve_builder.precision.calibration import CalibrationSource
from detserve_builder.precision.evaluation import Truth, agreement_dataset, labelled_dataset
from detserve_builder.precision.gate import Candidate, Gate, Measured
from detserve_builder.precision.network import named_nodes
from detserve_builder.precision.request import MAX_AP_DROP, Precision, PrecisionRequest
from detserve_builder.precision.search import OnStep
from detserve_builder.precision.speed import THREADS
from detserve_builder.precision.workshop import Place, Workshop
from detserve_builder.runtime import Runtime, is_installed
from detserve_builder.triton_config import Target
from detserve_client.card import Card

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Outcome:
    """What will be built.

    ``refusal`` says why it is not what was demanded. ``figure`` names what ``tried`` was measured by, the
    float model first; ``record`` is for the manifest.
    """

    built: Candidate
    record: dict[str, Any] = field(default_factory=dict)
    tried: list[Measured] = field(default_factory=list)
    gate: Gate | None = None
    figure: str = "AP"
    chosen: Measured | None = None
    refusal: str | None = None


def place_of(target: Target, request: PrecisionRequest) -> Place:
    """Where candidates for ``target`` run, the first runtime where nothing is measured.

    Raises :class:`BuildError` for what the target cannot run.
    """
    request.refuse_without_use()
    if target is Target.TENSORRT and request.precision is Precision.INT16:
        raise BuildError("TensorRT has no 16-bit integers; for --target tensorrt ask for fp16 or int8")
    if target is Target.TENSORRT and request.min_speedup is not None:
        raise BuildError(
            "--min-speedup is measured on this machine's CPU, which says nothing about --target tensorrt; "
            "leave it out"
        )
    if target is Target.EMBEDDED:
        return Place(_runtimes(request))
    for option, asked in (
        ("--runtime", request.runtime),
        ("--precision bf16", request.precision is Precision.BF16),
    ):
        if asked:
            raise BuildError(f"{option} is for --target embedded, got {target.value}; leave one of them out")
    return Place((Runtime.ONNXRUNTIME,), tensorrt=target is Target.TENSORRT)


def _runtimes(request: PrecisionRequest) -> tuple[Runtime, ...]:
    if request.runtime:
        return (request.runtime,)
    if request.precision is Precision.BF16:
        return (Runtime.OPENVINO,)
    measured = request.images is not None and is_installed(Runtime.OPENVINO)
    return (Runtime.ONNXRUNTIME, Runtime.OPENVINO) if measured else (Runtime.ONNXRUNTIME,)


def apply_precision(
    model: onnx.ModelProto,
    card: Card,
    place: Place,
    request: PrecisionRequest,
    source: CalibrationSource | None,
    on_step: OnStep,
    *,
    float_ap: float | None = None,
) -> Outcome:
    """Precision of the prepared ``model`` as asked; ``source`` is there where pictures are needed.

    ``float_ap`` is the model's AP where it was measured already.
    """
    if source is None:
        precision = request.precision or Precision.FP32
        return Outcome(Candidate(precision.value, precision, model, {}, runtime=place.runtimes[0]))
    works = Workshop(named_nodes(model), card, place, source, on_step)
    floats = replace(works.floats(Runtime.ONNXRUNTIME), baseline=True)
    truth = _truth(request, floats, card)
    record: dict[str, Any] = {"calibration": _described(source)}
    if truth is None:
        candidate = works.ungated(request)
        record["built"] = {"label": candidate.label, **candidate.settings}
        return Outcome(candidate, record)
    gate = _gate(request, place)
    measure_one = works.measure_against(floats, truth, float_ap)
    tried = [measure_one(floats)]
    tried += works.tried(request, gate, measure_one)
    chosen = gate.fastest(tried)
    built = chosen.candidate if chosen else works.floats(place.runtimes[0])
    record |= {
        "figure": truth.figure,
        "evaluation": {
            "pictures": truth.dataset.pictures,
            "sha256": truth.dataset.sha256() if truth.labelled else None,
        },
        "gate": {"max_ap_drop": gate.max_ap_drop, "min_speedup": gate.min_speedup},
        "machine": {"cpu": _cpu(), "threads": THREADS},
        "candidates": [measured.figures() for measured in tried],
        "built": chosen.figures() if chosen else {"label": built.label},
    }
    refusal = _refusal(request, gate, chosen, truth)
    return Outcome(built, record, tried, gate, truth.figure, chosen, refusal)


def _refusal(request: PrecisionRequest, gate: Gate, chosen: Measured | None, truth: Truth) -> str | None:
    if request.searches_all or (chosen and chosen.candidate.precision is request.precision):
        return None
    what = " ".join(["pruned"] * bool(request.prune) + [str(request.precision and request.precision.value)])
    kept = chosen.candidate.label if chosen else "fp32"
    return f"no {what} candidate has {gate.demand(truth.figure)}; {kept} was built instead"


def _gate(request: PrecisionRequest, place: Place) -> Gate:
    """Without a word on speed, only what is meant to be faster must be: INT8 and a free choice, on CPU."""
    quick = request.precision in (Precision.INT8, Precision.BF16) or request.searches_all
    default = 1.0 if quick and not place.tensorrt else 0.0
    return Gate(
        MAX_AP_DROP if request.max_ap_drop is None else request.max_ap_drop,
        default if request.min_speedup is None else request.min_speedup,
    )


def _truth(request: PrecisionRequest, floats: Candidate, card: Card) -> Truth | None:
    if request.images is None:
        return None
    if request.evaluate is None:
        return agreement_dataset(request.images, floats.open(), card)
    return labelled_dataset(request.evaluate, request.images, card)


def _described(source: CalibrationSource) -> dict[str, Any]:
    return {"pictures": len(source.pictures), "skipped": len(source.skipped), "sha256": source.sha256}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next(
        (line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine()
    )
