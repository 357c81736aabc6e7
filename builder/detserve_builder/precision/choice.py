"""The precision passes a build asks for: candidates, measured against the float model, and the choice."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from detserve_builder.errors import BuildError
from detserve_builder.graph.network import LEAST_SHARE, own_layers
from detserve_builder.graph.plain import plain
from detserve_builder.precision.already_quantised import as_it_came, slower_than_floats, without_quantisation
from detserve_builder.precision.candidate_accuracy import Truth, agreement_dataset, labelled_dataset
from detserve_builder.precision.gate import Candidate, Gate, Measured
from detserve_builder.precision.request import MAX_AP_DROP, Precision, PrecisionRequest
from detserve_builder.precision.runtime_check import check_runtime
from detserve_builder.precision.search import OnStep
from detserve_builder.precision.speed import THREADS
from detserve_builder.precision.workshop import Place, Workshop
from detserve_builder.quantise.calibration import CalibrationSource
from detserve_builder.runtime import Runtime, is_installed
from detserve_builder.triton_config import Target
from detserve_core.card import Card
from detserve_core.machine.cpu import cpu_kind, cpu_name, cpuinfo

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray


@dataclass(frozen=True)
class PrecisionChoice:
    """What will be built.

    ``refusal`` says why it is not what was demanded. ``figure`` names what ``tried`` was measured by, the
    float model first; ``record`` is for the manifest. ``notes`` are sentences for the user, also on what was
    left out.
    """

    built: Candidate
    record: dict[str, Any] = field(default_factory=dict)
    tried: list[Measured] = field(default_factory=list)
    gate: Gate | None = None
    figure: str = "AP"
    chosen: Measured | None = None
    refusal: str | None = None
    notes: tuple[str, ...] = ()


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
    images: NDArray[np.uint8],
    *,
    float_ap: float | None = None,
) -> PrecisionChoice:
    """Precision of the prepared ``model`` as asked; ``source`` is there where pictures are needed.

    A runtime other than ONNX Runtime is compared with it on ``images`` (uint8 [P,H,W,3]). ``float_ap`` is the
    model's AP where it was measured already. Raises :class:`BuildError` where what was asked for changes no
    layer, or its runtime computes something else.
    """
    came = as_it_came(model)
    record: dict[str, Any] = {"as_it_came": came} if came else {}
    notes = [came] if came else []
    if request.precision is Precision.INT8 and own_layers(plain(model)).quantised and not request.prune:
        return _left_alone(model, place, record, notes, images)
    if source is None:
        return _floats(model, place, request, record, notes, images)
    works = Workshop(plain(model), card, place, source, on_step, images)
    record["calibration"] = _described(source)
    floats = replace(works.floats(Runtime.ONNXRUNTIME), baseline=True)
    truth = _truth(request, floats, card)
    if truth is None:
        candidate = works.ungated(request)
        record["built"] = {"label": candidate.label, **candidate.settings}
        return PrecisionChoice(candidate, record, notes=(*notes, *_counted(candidate)))
    if request.runtime:
        works.checked(works.floats(request.runtime))
    gate = _gate(request, place)
    measure_one = works.measure_against(floats, truth, float_ap)
    tried = [measure_one(floats)]
    tried += works.tried(request, gate, measure_one)
    unfit = list(dict.fromkeys(works.unfit))
    if unfit and not request.searches_all and all(measured.candidate.baseline for measured in tried):
        raise BuildError(unfit[0])
    chosen = gate.fastest(tried)
    built = chosen.candidate if chosen else works.floats(place.runtimes[0])
    record |= {
        "figure": truth.figure,
        "evaluation": {
            "pictures": truth.dataset.pictures,
            "sha256": truth.dataset.sha256() if truth.labelled else None,
        },
        "gate": {"max_ap_drop": gate.max_ap_drop, "min_speedup": gate.min_speedup},
        "machine": _machine(),
        "candidates": [measured.figures() for measured in tried],
        "left_out": unfit,
        "built": chosen.figures() if chosen else {"label": built.label},
    }
    refusal = _refusal(request, gate, chosen, truth)
    notes += [f"left out: {why}" for why in unfit]
    if not place.tensorrt:
        notes.append(_measured_on(record["machine"]))
    return PrecisionChoice(built, record, tried, gate, truth.figure, chosen, refusal, tuple(notes))


def _floats(
    model: onnx.ModelProto,
    place: Place,
    request: PrecisionRequest,
    record: dict[str, Any],
    notes: list[str],
    images: NDArray[np.uint8],
) -> PrecisionChoice:
    """The model as it is, where no pass was asked for."""
    precision = request.precision or Precision.FP32
    candidate = Candidate(precision.value, precision, model, {}, runtime=place.runtimes[0])
    return _as_it_is(candidate, place, record, notes, images)


def _left_alone(
    model: onnx.ModelProto,
    place: Place,
    record: dict[str, Any],
    notes: list[str],
    images: NDArray[np.uint8],
) -> PrecisionChoice:
    """INT8 of a network that came quantised: its author chose which layers and ranges."""
    layers = own_layers(plain(model))
    if len(layers.quantised) < LEAST_SHARE * len(layers.every) or layers.kind.startswith("16-bit"):
        raise BuildError(
            f"--precision int8: {layers.as_it_came}, and a network that came quantised is left alone; "
            "export the float network, or leave --precision out"
        )
    candidate = Candidate("int8 as it came", Precision.INT8, model, {}, runtime=place.runtimes[0])
    record["built"] = {
        "label": candidate.label,
        "layers_quantised": len(layers.quantised),
        "layers": len(layers.every),
    }
    return _as_it_is(candidate, place, record, [f"{notes[0]}, and left alone"], images)


def _as_it_is(
    candidate: Candidate, place: Place, record: dict[str, Any], notes: list[str], images: NDArray[np.uint8]
) -> PrecisionChoice:
    moved = check_runtime(candidate, images, without_quantisation(candidate.model))
    if moved:
        record["bf16_moves"] = moved
        notes.append(
            f"bf16 moves scores by up to {moved['score']:g} and boxes by up to {moved['box_px']:g} px on two "
            "probe pictures"
        )
    on_cpu = candidate.runtime is Runtime.ONNXRUNTIME and not place.tensorrt
    if on_cpu and (slower := slower_than_floats(candidate.model, images)):
        notes.append(slower)
    return PrecisionChoice(candidate, record, notes=tuple(notes))


def _counted(candidate: Candidate) -> list[str]:
    """How much of the network a pass changed."""
    found = candidate.settings
    if "layers" not in found:
        return []
    return [f"{candidate.label}: {found['layers_changed']} of {found['layers']} layers with weights changed"]


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


def _measured_on(machine: dict[str, Any]) -> str:
    return (
        f"measured on a CPU with {machine['cpu_kind']} ({machine['cpu']}); detserve doctor says when the one "
        "that serves is of another kind"
    )


def _machine() -> dict[str, Any]:
    """What the speeds are of."""
    text = cpuinfo()
    return {"cpu": cpu_name(text), "cpu_kind": cpu_kind(text), "threads": THREADS}
