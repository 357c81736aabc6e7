"""INT8: method × layers left in float, the most harmful first, for the fastest candidate that passes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from detserve_builder.graph.network import Layers, Unfit, layers, own_layers
from detserve_builder.mixing.mix import Mix, fastest_mix
from detserve_builder.mixing.silu import with_polynomial_silu
from detserve_builder.precision.gate import Candidate, Gate, Measure, Measured
from detserve_builder.precision.request import Precision
from detserve_builder.precision.sensitivity import Probe, sensitivity
from detserve_builder.quantise.int8 import Form, quantisable_nodes, quantise
from detserve_builder.quantise.ranges import Method, Range, activations_of, ranges
from detserve_builder.quantise.statistics import Statistics
from detserve_builder.runtime import Runtime

if TYPE_CHECKING:
    import onnx

HARMFUL = 0.05  # a layer that alone does more harm than this stays float where no gate decides
_LEFT_IN_FLOAT = (0, 1, 2, 3, 5, 8, 12, 16, 24, 32)
HEADS_STAY = "those that boxes and scores are read off stay in float"
OnStep = Callable[[str], None]


@dataclass(frozen=True)
class Quantiser:
    """Everything the INT8 candidates of one model have in common."""

    model: onnx.ModelProto
    statistics: Statistics
    probe: Probe
    form: Form
    on_step: OnStep
    runtime: Runtime = Runtime.ONNXRUNTIME
    on_unfit: Callable[[Unfit], None] = lambda why: None

    def candidate(
        self,
        method: Method,
        in_float: tuple[str, ...],
        *,
        heads: bool = False,
        polynomial_silu: bool = False,
    ) -> Candidate:
        """INT8 but for the layers ``in_float``, with what belongs to them; ``heads`` in INT8 too."""
        nodes = [node for layer, own in self.layers.items() if layer not in in_float for node in own]
        if heads:
            nodes += [
                name
                for name in quantisable_nodes(self.model, self.form, heads=True)
                if name not in self.inner
            ]
        counts = self.own_layers.changed("int8", nodes, HEADS_STAY)
        quantised = quantise(self.model, self.ranges[method], nodes, self.form)
        label = f"int8 {method.value}" + (f", {len(in_float)} in float" if in_float else "")
        label += ", heads too" if heads else ""
        label += ", openvino" if self.runtime is Runtime.OPENVINO else ""
        settings: dict[str, Any] = {
            "method": method.value,
            "form": self.form.value,
            "float_layers": list(in_float),
            "float_heads": not heads,
            **counts,
        }
        if polynomial_silu:
            quantised, settings["polynomial_silus"] = with_polynomial_silu(quantised)
            label += ", polynomial silu"
        return Candidate(label, Precision.INT8, quantised, settings, runtime=self.runtime)

    @cached_property
    def own_layers(self) -> Layers:
        """All that have weights."""
        return own_layers(self.model)

    @cached_property
    def layers(self) -> dict[str, list[str]]:
        """The nodes to quantise before the heads, by layer."""
        return layers(self.model, self.inner)

    @cached_property
    def inner(self) -> list[str]:
        """The nodes to quantise before the heads."""
        return quantisable_nodes(self.model, self.form)

    @cached_property
    def ranges(self) -> dict[Method, dict[str, Range]]:
        """Of every method."""
        symmetric = self.form is Form.TENSORRT
        functions = activations_of(self.model)
        return {
            method: ranges(self.statistics, method, symmetric=symmetric, activations=functions)
            for method in Method
        }

    @cached_property
    def methods(self) -> list[Method]:
        """The least harmful first, with every layer in INT8."""
        harms = {}
        for method in Method:
            self.on_step(f"comparing calibration methods: {method.value}")
            harms[method] = self.probe.harm(self.candidate(method, ()).model)
        return sorted(harms, key=harms.__getitem__)

    @cached_property
    def harms(self) -> dict[str, float]:
        """Of every layer alone under the best method, the most harmful first."""
        best = self.ranges[self.methods[0]]
        found = sensitivity(
            list(self.layers),
            lambda layer: quantise(self.model, best, self.layers[layer], self.form),
            self.probe,
            lambda done, total: self.on_step(f"measuring the sensitivity of layers: {done}/{total}"),
        )
        return dict(found)

    @cached_property
    def mix(self) -> Mix:
        """What is fastest on this machine, whatever its AP.

        In ONNX Runtime every layer: there a border between float and 8 bits is a pass over the tensor of its
        own, which cost more than any mix saved.
        """
        if self.runtime is not Runtime.OPENVINO:
            return Mix()
        self.on_step("measuring what each layer gains by int8")
        method = self.methods[0]
        return fastest_mix(
            lambda mix: self.candidate(method, mix.in_float, polynomial_silu=mix.polynomial_silu),
            self._floats,
            list(self.layers),
            self.probe.images,
        )

    def _floats(self, polynomial_silu: bool) -> Candidate:
        """The float network as the mix computes its float layers."""
        model = with_polynomial_silu(self.model)[0] if polynomial_silu else self.model
        return Candidate("bf16, openvino", Precision.BF16, model, {}, runtime=self.runtime)

    def ungated(self) -> Candidate:
        """What is built where no gate decides: the best method, harmful layers in float."""
        harmful = tuple(layer for layer, harm in self.harms.items() if harm > HARMFUL)
        try:
            return self.candidate(self.methods[0], harmful)
        except Unfit as why:
            raise Unfit(f"{len(harmful)} layers do not bear int8 on these pictures; {why}") from None


def search(quantiser: Quantiser, gate: Gate, measure: Measure) -> list[Measured]:
    """Every candidate tried, in order, each with the layers in float that gain nothing by INT8 here.

    A method's search ends at the first candidate that keeps the AP (leaving more in float is slower), or that
    is too slow already, or is unfit, or that has as many in float as one that passed: it is no faster, for
    speed is a matter of layers, not of methods. The fastest that passes is tried with its heads in INT8 too.
    """
    tried: list[Measured] = []
    mix = quantiser.mix
    order = [layer for layer in quantiser.harms if layer not in mix.in_float]
    fewest = max(len(order), 1)
    for method in quantiser.methods:
        for count in _LEFT_IN_FLOAT:
            if count >= fewest:
                break
            try:
                candidate = quantiser.candidate(
                    method, (*mix.in_float, *order[:count]), polynomial_silu=mix.polynomial_silu
                )
                quantiser.on_step(f"measuring {candidate.label}")
                tried.append(measure(candidate))
            except Unfit as why:
                if not count:
                    quantiser.on_unfit(why)
                break
            if gate.passes(tried[-1]) and tried[-1].speedup is not None:
                fewest = count
            if gate.accurate(tried[-1]) or not gate.fast(tried[-1]):
                break
    if best := gate.fastest(tried):
        made = best.candidate.settings
        candidate = quantiser.candidate(
            Method(made["method"]),
            tuple(made["float_layers"]),
            heads=True,
            polynomial_silu=mix.polynomial_silu,
        )
        quantiser.on_step(f"measuring {candidate.label}")
        with suppress(Unfit):
            tried.append(measure(candidate))
    return tried
