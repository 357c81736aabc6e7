"""Makes the candidates that a request is about and has them measured; what several need is made once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from detserve_builder.graph.network import Layers, Unfit, own_layers
from detserve_builder.mixing.silu import with_polynomial_silu
from detserve_builder.precision.candidate_accuracy import Truth, average_precision
from detserve_builder.precision.gate import Candidate, Gate, Measure, Measured
from detserve_builder.precision.request import Precision, PrecisionRequest
from detserve_builder.precision.runtime_check import check_runtime
from detserve_builder.precision.search import HEADS_STAY, OnStep, Quantiser, search
from detserve_builder.precision.sensitivity import Probe, probe
from detserve_builder.precision.speed import THREADS, interleaved
from detserve_builder.prune import weights
from detserve_builder.prune.channels import prune_channels
from detserve_builder.quantise import fp16
from detserve_builder.quantise.baseline import plain_quantize_static
from detserve_builder.quantise.calibration import CalibrationSource
from detserve_builder.quantise.int8 import Form, measured_tensors, quantisable_nodes, quantise
from detserve_builder.quantise.ranges import Method, ranges
from detserve_builder.quantise.statistics import Statistics, measure, statistics_folder
from detserve_builder.runtime import Runtime
from detserve_core.card import Card

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray


_LEFT_IN_FP32 = (1, 2, 4, 8, 16)  # layers


@dataclass(frozen=True)
class Place:
    """What a detector is built for: ``runtimes`` on this machine's CPU, or TensorRT, simulated here."""

    runtimes: tuple[Runtime, ...]
    tensorrt: bool = False

    @property
    def forms(self) -> dict[Runtime, Form]:
        """The Q/DQ form that each runtime wants."""
        if self.tensorrt:
            return {Runtime.ONNXRUNTIME: Form.TENSORRT}
        return {runtime: Form(runtime.value) for runtime in self.runtimes}


@dataclass(frozen=True)
class Workshop:
    """Of one prepared ``model`` in plain form, for one ``place``.

    ``images`` uint8 [P,H,W,3] are the pictures on which a runtime is compared with ONNX Runtime; ``unfit``
    are sentences on the candidates that were left out.
    """

    model: onnx.ModelProto
    card: Card
    place: Place
    source: CalibrationSource
    on_step: OnStep
    images: NDArray[np.uint8]
    unfit: list[str] = field(default_factory=list)

    @cached_property
    def layers(self) -> Layers:
        """The network's own."""
        return own_layers(self.model)

    @contextmanager
    def unless_unfit(self) -> Iterator[None]:
        """Go on without a candidate that is no use, and keep why."""
        try:
            yield
        except Unfit as why:
            self.unfit.append(str(why))

    def checked(self, candidate: Candidate) -> Candidate:
        """The candidate, whose runtime computes what ONNX Runtime does; raises :class:`Unfit`.

        A graph that is read wrong in float is no better quantised, where rounding would hide it.
        """
        if candidate.runtime is Runtime.OPENVINO and self.misread:
            raise Unfit(self.misread)
        moved = check_runtime(candidate, self.images, self.model)
        settings = {**candidate.settings, "bf16_moves": moved}
        return replace(candidate, settings=settings) if moved else candidate

    @cached_property
    def misread(self) -> str | None:
        """Why the float network is nothing for OpenVINO, or None."""
        try:
            check_runtime(self.floats(Runtime.OPENVINO), self.images, None)
        except Unfit as why:
            return str(why)
        return None

    @cached_property
    def statistics(self) -> Statistics:
        """Of every tensor that any pass asks about."""
        nodes = set(fp16.convertible_nodes(self.model))
        for form in self.place.forms.values():
            nodes |= set(quantisable_nodes(self.model, form))
        return measure(
            self.model,
            measured_tensors(self.model, nodes),
            self.source,
            lambda done, total: self.on_step(f"measuring ranges on pictures: {done}/{total}"),
            cache=statistics_folder(),
        )

    @cached_property
    def probe(self) -> Probe:
        """The float model on a few pictures."""
        return probe(self.model, self.source)

    def floats(self, runtime: Runtime) -> Candidate:
        """The prepared model as it is."""
        label = "fp32" + (", openvino" if runtime is Runtime.OPENVINO else "")
        return Candidate(label, Precision.FP32, self.model, {}, runtime=runtime)

    def bfloat(self) -> Candidate:
        """The prepared model, which OpenVINO computes in bf16."""
        return Candidate("bf16, openvino", Precision.BF16, self.model, {}, runtime=Runtime.OPENVINO)

    @cached_property
    def halved(self) -> tuple[list[str], Mapping[str, str]]:
        """The nodes that bear fp16, and why each other one does not."""
        self._changed("fp16", fp16.convertible_nodes(self.model))
        self.on_step("finding what must stay in fp32")
        return fp16.half_nodes(self.model, self.statistics, self.probe)

    @cached_property
    def harmful_halves(self) -> list[list[str]]:
        """The nodes that bear fp16 by layer, the most harmful first."""
        self.on_step("measuring the sensitivity of layers to fp16")
        return fp16.most_harmful(self.model, self.halved[0], self.probe)

    def half(self, more_in_fp32: int = 0) -> Candidate:
        """FP16 casts, but for what overflows or errs in it and for so many of the most harmful layers."""
        nodes, kept = self.halved
        layers = self.harmful_halves[:more_in_fp32] if more_in_fp32 else []
        kept = {**kept, **{name: "gate" for layer in layers for name in layer}}
        label = "fp16" + (f", {len(kept)} nodes fp32" if kept else "")
        chosen = [name for name in nodes if name not in kept]
        counts = self._changed("fp16", chosen)
        model = fp16.to_half(self.model, chosen)
        return Candidate(label, Precision.FP16, model, {"fp32_nodes": kept, **counts})

    def _changed(self, what: str, nodes: Iterable[str]) -> dict[str, int]:
        rest = {
            "fp16": "what overflows in fp16 or moves detections stays in fp32",
            "int16": HEADS_STAY,
        }
        return self.layers.changed(what, set(nodes), rest[what])

    def halves(self, gate: Gate, measure_one: Measure) -> list[Measured]:
        """FP16 with more and more layers in fp32, until one keeps the AP or is too slow already."""
        tried = [measure_one(self.half())]
        for count in _LEFT_IN_FP32:
            if gate.accurate(tried[-1]) or not gate.fast(tried[-1]) or count >= len(self.harmful_halves):
                break
            try:
                tried.append(measure_one(self.half(count)))
            except Unfit:
                break
        return tried

    def int16(self) -> Candidate:
        """16-bit activations, 8-bit weights."""
        nodes = quantisable_nodes(self.model, Form.ONNXRUNTIME)
        counts = self._changed("int16", nodes)
        found = ranges(self.statistics, Method.MIN_MAX, symmetric=False)
        model = quantise(self.model, found, nodes, Form.ONNXRUNTIME, bits=16)
        settings = {"method": Method.MIN_MAX.value, **counts}
        return Candidate("int16 activations", Precision.INT16, model, settings)

    def quantisers(self) -> Iterable[Quantiser]:
        """One for each runtime; none for a network that came quantised, which raises :class:`Unfit`."""
        if self.layers.quantised:
            raise Unfit(f"int8: {self.layers.as_it_came} and are left alone")
        for runtime, form in self.place.forms.items():
            self.layers.changed("int8", quantisable_nodes(self.model, form), HEADS_STAY)
            yield Quantiser(
                *(self.model, self.statistics, self.probe, form, self.on_step, runtime),
                on_unfit=lambda why: self.unfit.append(str(why)),
            )

    def pruned(self, how: str) -> tuple[Workshop, Candidate]:
        """The same with the pruned model in the place of the float one."""
        asked = weights.parse_pruning(how)
        if self.layers.quantised:
            raise Unfit(f"--prune {how}: {self.layers.as_it_came} and are left alone; leave it out")
        if isinstance(asked, weights.Channels):
            model, kept, saved = prune_channels(
                self.model,
                asked.share,
                self.source,
                self.probe,
                lambda done, total: self.on_step(f"measuring what channels are for: {done}/{total}"),
            )
            settings: dict[str, Any] = {
                "prune": how,
                "channels_kept_of": kept,
                "multiplications_saved": round(saved, 4),
                "layers_changed": len(kept),
                "layers": len(self.layers.every),
            }
        else:
            model, sparsity = weights.prune(
                self.model,
                asked,
                quantisable_nodes(self.model, next(iter(self.place.forms.values()))),
                self.source,
                lambda done, total: self.on_step(f"correcting biases on pictures: {done}/{total}"),
            )
            counts = self.layers.changed(
                f"--prune {how}",
                sparsity,
                "the first layer, depthwise ones and those that boxes and scores are read off keep their "
                "weights, and 2:4 fits multiples of 16 input and 8 output channels only",
            )
            sparsity = {name: round(share, 4) for name, share in sparsity.items()}
            settings = {"prune": how, "sparsity": sparsity, **counts}
        works = replace(self, model=model)
        candidate = Candidate(
            f"pruned {how}", Precision.FP32, model, settings, runtime=next(iter(self.place.forms))
        )
        return works, candidate

    def ungated(self, request: PrecisionRequest) -> Candidate:
        """What is built where nothing is measured but harm on the calibration pictures."""
        works, candidate = self.pruned(request.prune) if request.prune else (self, None)
        if request.precision is Precision.FP16:
            made = works.half()
        elif request.precision is Precision.INT16:
            made = works.int16()
        elif request.precision is Precision.INT8:
            made = next(iter(works.quantisers())).ungated()
        elif request.precision is Precision.BF16:
            made = works.bfloat()
        else:
            assert candidate is not None  # noqa: S101  # a request for neither has no pictures
            return works.checked(candidate)
        return works.checked(_after(candidate, made))

    def tried(self, request: PrecisionRequest, gate: Gate, measure_one: Measure) -> list[Measured]:
        """Every candidate that the request is about, measured."""
        tried: list[Measured] = []
        works, pruned = self.pruned(request.prune) if request.prune else (self, None)

        def try_one(candidate: Candidate) -> Measured:
            whole = _after(pruned, candidate)
            self.on_step(f"measuring {whole.label}")
            return measure_one(works.checked(whole))

        if pruned:
            alone = request.precision in (None, Precision.FP32)
            self.on_step(f"measuring {pruned.label}")
            tried.append(measure_one(works.checked(pruned if alone else replace(pruned, baseline=True))))
            if request.searches_all:
                works, pruned = self, None  # one candidate among the others
            elif not gate.accurate(tried[-1]):
                return tried  # what is made from it will be no better
        wanted = [request.precision] if request.precision else list(Precision)
        runtimes = self.place.forms
        if Runtime.OPENVINO in runtimes:
            for floats in (works.floats(Runtime.OPENVINO), works.bfloat()):
                if floats.precision in wanted:
                    with self.unless_unfit():
                        tried += [try_one(one) for one in (floats, *_polynomial(floats))]
        if Precision.FP16 in wanted and Runtime.ONNXRUNTIME in runtimes:
            with self.unless_unfit():
                tried += works.halves(gate, try_one)
        if Precision.INT16 in wanted and Form.ONNXRUNTIME in runtimes.values():
            with self.unless_unfit():
                tried.append(try_one(works.int16()))
        if Precision.INT8 in wanted:
            with self.unless_unfit():
                quantisers = list(works.quantisers())
                self.on_step("measuring plain quantize_static for comparison")
                tried.append(try_one(plain_quantize_static(works.model, self.source)))
                for quantiser in quantisers:
                    if quantiser.runtime is Runtime.OPENVINO and works.misread:
                        self.unfit.append(works.misread)
                    else:
                        tried += search(quantiser, gate, try_one)
            if self.place.tensorrt and request.precision and gate.fastest(tried) is None:
                with self.unless_unfit():
                    tried += works.halves(gate, try_one)  # the next precision down in speed
        return tried

    def measure_against(self, floats: Candidate, truth: Truth, known_ap: float | None = None) -> Measure:
        """Figures against the float model, whose own AP is ``known_ap`` or measured once."""
        images = self.probe.images
        self.on_step(f"measuring {floats.label}")
        float_ap = average_precision(floats.open(), self.card, truth) if known_ap is None else known_ap
        float_session = floats.open(threads=THREADS)

        def measure_one(candidate: Candidate) -> Measured:
            ap = float_ap
            if candidate is not floats:
                ap = average_precision(candidate.open(), self.card, truth)
            if self.place.tensorrt:
                return Measured(candidate, ap, float_ap - ap, None, None)
            speed = interleaved(float_session, candidate.open(threads=THREADS), images)
            return Measured(candidate, ap, float_ap - ap, speed.candidate_ms, speed.speedup)

        return measure_one


def _polynomial(floats: Candidate) -> list[Candidate]:
    """The same with each SiLU as a polynomial, where it has any."""
    model, count = with_polynomial_silu(floats.model)
    label, settings = f"{floats.label}, polynomial silu", {"polynomial_silus": count}
    return [replace(floats, label=label, model=model, settings=settings)] if count else []


def _after(pruned: Candidate | None, made: Candidate) -> Candidate:
    if pruned is None:
        return made
    return replace(made, label=f"{pruned.label}, {made.label}", settings={**pruned.settings, **made.settings})
