"""The precision passes a build asks for: candidates, measured against the float model, and the choice."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detserve_builder.errors import BuildError
from detserve_builder.precision import fp16, pruning
from detserve_builder.precision.baseline import plain_quantize_static
from detserve_builder.precision.calibration import CalibrationSource
from detserve_builder.precision.channels import prune_channels
from detserve_builder.precision.evaluation import (
    Dataset,
    agreement_dataset,
    average_precision,
    labelled_dataset,
)
from detserve_builder.precision.gate import Candidate, Gate, Measure, Measured
from detserve_builder.precision.int8 import Form, measured_tensors, quantisable_nodes, quantise
from detserve_builder.precision.network import named_nodes
from detserve_builder.precision.ranges import Method, ranges
from detserve_builder.precision.request import MAX_AP_DROP, Precision, PrecisionRequest
from detserve_builder.precision.search import OnStep, Quantiser, search
from detserve_builder.precision.sensitivity import Probe, probe
from detserve_builder.precision.speed import THREADS, interleaved
from detserve_builder.precision.statistics import Statistics, cache_folder, measure
from detserve_client.card import Card

if TYPE_CHECKING:
    import onnx

_LEFT_IN_FP32 = (0, 1, 2, 4, 8, 16)  # layers


@dataclass(frozen=True)
class Outcome:
    """What will be built.

    ``refusal`` says why it is not what was demanded. ``figure`` names what ``tried`` was measured by, the
    float model first; ``record`` is for the manifest.
    """

    model: onnx.ModelProto
    precision: Precision
    record: dict[str, Any] = field(default_factory=dict)
    tried: list[Measured] = field(default_factory=list)
    gate: Gate | None = None
    figure: str = "AP"
    chosen: Measured | None = None
    refusal: str | None = None


def form_of(target: str) -> Form:
    """Which Q/DQ form a target runs fast."""
    return Form.TENSORRT if target == "tensorrt" else Form.CPU


def refuse_impossible(request: PrecisionRequest, form: Form) -> None:
    """Refuse, before any work, what the target cannot run; raises :class:`BuildError`."""
    request.refuse_without_use()
    if form is Form.TENSORRT and request.precision is Precision.INT16:
        raise BuildError("TensorRT has no 16-bit integers; for --target tensorrt ask for fp16 or int8")
    if form is Form.TENSORRT and request.min_speedup is not None:
        raise BuildError(
            "--min-speedup is measured on this machine's CPU, which says nothing about --target tensorrt; "
            "leave it out"
        )


def apply_precision(
    model: onnx.ModelProto,
    card: Card,
    form: Form,
    request: PrecisionRequest,
    source: CalibrationSource | None,
    on_step: OnStep,
) -> Outcome:
    """Precision of the prepared ``model`` as asked; ``source`` is there where pictures are needed."""
    if source is None:
        return Outcome(model, Precision.FP32)
    dataset = _dataset(request, model, card)
    works = _Workshop(named_nodes(model), card, form, source, on_step)
    record: dict[str, Any] = {"calibration": _described(source)}
    if dataset is None:
        candidate = works.ungated(request)
        record["built"] = {"label": candidate.label, **candidate.settings}
        return Outcome(candidate.model, candidate.precision, record)
    gate = _gate(request, form)
    floats = Candidate("fp32", Precision.FP32, model, {}, baseline=True)
    measure_one = works.measure_against(floats, dataset)
    tried = [measure_one(floats)]
    tried += works.tried(request, gate, measure_one)
    chosen = gate.fastest(tried)
    record |= {
        "figure": dataset.figure,
        "evaluation": {"pictures": len(dataset.pictures), "sha256": _sha256(request.evaluate)},
        "gate": {"max_ap_drop": gate.max_ap_drop, "min_speedup": gate.min_speedup},
        "machine": {"cpu": _cpu(), "threads": THREADS},
        "candidates": [measured.figures() for measured in tried],
        "built": chosen.figures() if chosen else {"label": "fp32"},
    }
    refusal = _refusal(request, gate, chosen, dataset)
    built = chosen.candidate if chosen else floats
    return Outcome(built.model, built.precision, record, tried, gate, dataset.figure, chosen, refusal)


def _refusal(request: PrecisionRequest, gate: Gate, chosen: Measured | None, dataset: Dataset) -> str | None:
    if request.searches_all or (chosen and chosen.candidate.precision is request.precision):
        return None
    what = " ".join(["pruned"] * bool(request.prune) + [str(request.precision and request.precision.value)])
    kept = chosen.candidate.label if chosen else "fp32"
    return f"no {what} candidate has {gate.demand(dataset.figure)}; {kept} was built instead"


def _gate(request: PrecisionRequest, form: Form) -> Gate:
    """Without a word on speed, only what is meant to be faster must be: INT8 and a free choice, on CPU."""
    quick = request.precision is Precision.INT8 or request.searches_all
    default = 1.0 if quick and form is Form.CPU else 0.0
    return Gate(
        MAX_AP_DROP if request.max_ap_drop is None else request.max_ap_drop,
        default if request.min_speedup is None else request.min_speedup,
    )


@dataclass(frozen=True)
class _Workshop:
    """Makes candidates; what several of them need is measured once."""

    model: onnx.ModelProto
    card: Card
    form: Form
    source: CalibrationSource
    on_step: OnStep

    @cached_property
    def statistics(self) -> Statistics:
        """Of every tensor that any pass asks about."""
        nodes = {*quantisable_nodes(self.model, self.form), *fp16.convertible_nodes(self.model)}
        return measure(
            self.model,
            measured_tensors(self.model, nodes),
            self.source,
            lambda done, total: self.on_step(f"measuring ranges on pictures: {done}/{total}"),
            cache=cache_folder(),
        )

    @cached_property
    def probe(self) -> Probe:
        return probe(self.model, self.source)

    @cached_property
    def halved(self) -> tuple[list[str], Mapping[str, str]]:
        """The nodes that fp16 bears, and why each other one stays."""
        self.on_step("finding what must stay in fp32")
        return fp16.half_nodes(self.model, self.statistics, self.probe)

    @cached_property
    def harmful_halves(self) -> list[list[str]]:
        """The nodes that fp16 bears, by layer, the most harmful first."""
        self.on_step("measuring the sensitivity of layers to fp16")
        return fp16.most_harmful(self.model, self.halved[0], self.probe)

    def half(self, more_in_fp32: int = 0) -> Candidate:
        """FP16 but for what does not bear it, and for as many of the most harmful layers as said."""
        nodes, kept = self.halved
        harmful = self.harmful_halves[:more_in_fp32] if more_in_fp32 else []
        kept = {**kept, **dict.fromkeys((name for layer in harmful for name in layer), "gate")}
        label = "fp16" + (f", {len(kept)} nodes fp32" if kept else "")
        half = fp16.to_half(self.model, [name for name in nodes if name not in kept])
        return Candidate(label, Precision.FP16, half, {"fp32_nodes": kept})

    def halves(self, gate: Gate, measure_one: Measure) -> list[Measured]:
        """FP16 with more and more layers in fp32, until one keeps the AP."""
        tried: list[Measured] = []
        for count in _LEFT_IN_FP32:
            tried.append(measure_one(self.half(count)))
            if gate.accurate(tried[-1]) or (count and count >= len(self.harmful_halves)):
                break
        return tried

    def int16(self) -> Candidate:
        nodes = quantisable_nodes(self.model, self.form)
        found = ranges(self.statistics, Method.MIN_MAX, symmetric=False)
        model = quantise(self.model, found, nodes, self.form, bits=16)
        return Candidate("int16 activations", Precision.INT16, model, {"method": Method.MIN_MAX.value})

    def quantiser(self) -> Quantiser:
        return Quantiser(self.model, self.statistics, self.probe, self.form, self.on_step)

    def pruned(self, how: str) -> tuple[_Workshop, Candidate]:
        """The same with the pruned model in the place of the float one."""
        asked = pruning.parse_pruning(how)
        if isinstance(asked, pruning.Channels):
            model, kept = prune_channels(
                self.model,
                asked.share,
                self.source,
                self.probe,
                lambda done, total: self.on_step(f"measuring what channels are for: {done}/{total}"),
            )
            settings: dict[str, Any] = {"prune": how, "channels_kept_of": kept}
        else:
            model, sparsity = pruning.prune(
                self.model,
                asked,
                quantisable_nodes(self.model, self.form),
                self.source,
                lambda done, total: self.on_step(f"correcting biases on pictures: {done}/{total}"),
            )
            settings = {"prune": how, "sparsity": {name: round(s, 4) for name, s in sparsity.items()}}
        works = _Workshop(model, self.card, self.form, self.source, self.on_step)
        return works, Candidate(f"pruned {how}", Precision.FP32, model, settings)

    def ungated(self, request: PrecisionRequest) -> Candidate:
        """What is built where nothing is measured but harm on the calibration pictures."""
        works, candidate = self.pruned(request.prune) if request.prune else (self, None)
        if request.precision is Precision.FP16:
            made = works.half()
        elif request.precision is Precision.INT16:
            made = works.int16()
        elif request.precision is Precision.INT8:
            made = works.quantiser().ungated()
        else:
            assert candidate is not None  # noqa: S101  # a request for neither has no pictures
            return candidate
        return _after(candidate, made)

    def tried(self, request: PrecisionRequest, gate: Gate, measure_one: Measure) -> list[Measured]:
        """Every candidate that the request is about, measured."""
        tried: list[Measured] = []
        works, pruned = self.pruned(request.prune) if request.prune else (self, None)

        def try_one(candidate: Candidate) -> Measured:
            whole = _after(pruned, candidate)
            self.on_step(f"measuring {whole.label}")
            return measure_one(whole)

        if pruned:
            alone = request.precision in (None, Precision.FP32)
            self.on_step(f"measuring {pruned.label}")
            tried.append(measure_one(pruned if alone else replace(pruned, baseline=True)))
            if request.searches_all:
                works, pruned = self, None  # one candidate among the others
            elif not gate.accurate(tried[-1]):
                return tried  # what is made from it will be no better
        wanted = [request.precision] if request.precision else list(Precision)
        if Precision.FP16 in wanted:
            tried += works.halves(gate, try_one)
        if Precision.INT16 in wanted and self.form is Form.CPU:
            tried.append(try_one(works.int16()))
        if Precision.INT8 in wanted:
            self.on_step("measuring plain quantize_static for comparison")
            tried.append(try_one(plain_quantize_static(works.model, self.source)))
            found = search(works.quantiser(), gate, try_one)
            tried += found
            if self.form is Form.TENSORRT and request.precision and gate.fastest(found) is None:
                tried += works.halves(gate, try_one)  # the next precision down in speed
        return tried

    def measure_against(self, floats: Candidate, dataset: Dataset) -> Measure:
        """Figures against the float model; its own AP is measured once."""
        images = self.probe.images
        self.on_step("measuring fp32")
        float_ap = average_precision(floats.model, self.card, dataset)

        def measure_one(candidate: Candidate) -> Measured:
            ap = float_ap
            if candidate is not floats:
                ap = average_precision(candidate.model, self.card, dataset)
            if self.form is Form.TENSORRT:
                return Measured(candidate, ap, float_ap - ap, None, None)
            speed = interleaved(floats.model, candidate.model, images)
            return Measured(candidate, ap, float_ap - ap, speed.candidate_ms, speed.speedup)

        return measure_one


def _after(pruned: Candidate | None, made: Candidate) -> Candidate:
    if pruned is None:
        return made
    label = f"{pruned.label}, {made.label}"
    return Candidate(label, made.precision, made.model, {**pruned.settings, **made.settings}, made.baseline)


def _dataset(request: PrecisionRequest, model: onnx.ModelProto, card: Card) -> Dataset | None:
    if request.images is None:
        return None
    if request.evaluate is None:
        return agreement_dataset(request.images, model, card)
    return labelled_dataset(request.evaluate, request.images, card)


def _described(source: CalibrationSource) -> dict[str, Any]:
    return {"pictures": len(source.pictures), "skipped": len(source.skipped), "sha256": source.sha256}


def _sha256(path: Path | None) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path else None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next(
        (line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine()
    )
