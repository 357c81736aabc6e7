"""Which layers stay in float, given what each gains; and the mix that is the fastest."""

from __future__ import annotations

from dataclasses import replace

import pytest

from detserve_builder.graph.network import Unfit
from detserve_builder.mixing import mix as mixing
from detserve_builder.mixing.layer_gains import layer_gains_ms
from detserve_builder.mixing.mix import Mix, fastest_mix, mixes
from detserve_builder.mixing.silu import with_polynomial_silu
from detserve_builder.precision.gate import Candidate
from detserve_builder.precision.request import Precision
from detserve_builder.precision.search import Quantiser
from detserve_builder.quantise.int8 import Form, quantisable_nodes
from detserve_builder.runtime import Runtime

GAINS_MS = {"stem": 0.4, "pointwise": 0.1, "depthwise": -0.3, "wide": 0.2, "deep": 0.0}


def test_what_gains_nothing_is_left_in_float_and_less_and_less_is_quantised() -> None:
    assert mixes(GAINS_MS) == [
        (),
        ("depthwise", "deep"),
        ("depthwise",),
        ("pointwise", "depthwise", "deep"),
    ]


def test_where_nothing_gains_a_share_is_tried_all_the_same() -> None:
    found = mixes(dict.fromkeys("abcd", -1.0))
    assert [len(in_float) for in_float in found] == [0, 1, 2, 3]


NEVER = float("inf")


class Speeds:
    """Candidates that take as long as a table says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, took_ms: dict[Mix, float]) -> None:
        self.took_ms = took_ms
        self.counted_with: list[str] = []
        monkeypatch.setattr(mixing, "_faster", lambda one, other, _: one.took_ms / other.took_ms)
        monkeypatch.setattr(mixing, "layer_gains_ms", self.gains_ms)
        monkeypatch.setattr(mixing, "_runs", lambda candidate: candidate.took_ms < NEVER)

    def gains_ms(self, floats, quantised, layers, images):
        self.counted_with = [floats, quantised.label]
        return {layer: GAINS_MS[layer] for layer in layers if layer != "deep"}  # not named

    def candidate(self, mix: Mix):
        if mix not in self.took_ms:
            raise Unfit("too few layers")
        made = Candidate(str(mix), Precision.INT8, None, {"polynomial_silus": 3 * mix.polynomial_silu})
        object.__setattr__(made, "took_ms", self.took_ms[mix])
        return made

    def fastest(self) -> Mix:
        return fastest_mix(self.candidate, lambda smooth: f"floats {smooth}", list(GAINS_MS), [])


SLOW = ("depthwise", "deep")


@pytest.mark.parametrize(
    ("took_ms", "fastest"),
    [
        ({Mix(): 10, Mix((), True): 10}, Mix()),
        ({Mix(): 10, Mix((), True): 8}, Mix((), True)),
        ({Mix(): 10, Mix((), True): 12, Mix(SLOW): 9}, Mix(SLOW)),
        ({Mix(): 10, Mix((), True): 8, Mix(SLOW, True): 7, Mix(SLOW[:1], True): 6}, Mix(SLOW[:1], True)),
        ({Mix(): 10, Mix((), True): 8, Mix(SLOW, True): 7.95}, Mix((), True)),  # not told from noise
        ({Mix(): 10, Mix((), True): NEVER}, Mix()),
    ],
)
def test_the_fastest_mix_is_taken_if_it_is_faster_than_noise(monkeypatch, took_ms, fastest) -> None:
    speeds = Speeds(monkeypatch, took_ms)
    assert speeds.fastest() == fastest
    smooth = fastest.polynomial_silu
    assert speeds.counted_with == [f"floats {smooth}", str(Mix((), smooth))]


def test_nothing_is_mixed_where_the_runtime_does_not_run_it(monkeypatch) -> None:
    speeds = Speeds(monkeypatch, {Mix(): NEVER, Mix((), True): 8, Mix(SLOW): 1})
    assert speeds.fastest() == Mix()
    assert not speeds.counted_with


@pytest.fixture
def quantiser(model, statistics, float_probe):
    pytest.importorskip("openvino")
    return Quantiser(
        *(model, statistics, float_probe, Form.OPENVINO, lambda step: None, Runtime.OPENVINO),
    )


def test_openvinos_counters_name_every_layer(quantiser, model) -> None:
    layers = quantisable_nodes(model, Form.OPENVINO)
    every = quantiser.candidate(quantiser.methods[0], ())
    gains_ms = layer_gains_ms(
        quantiser._floats(False), every, [*layers, "no such layer"], quantiser.probe.images
    )
    assert list(gains_ms) == layers


def test_a_mixed_candidate_has_its_layers_in_float_and_its_silus_as_polynomials(quantiser) -> None:
    made = quantiser.candidate(quantiser.methods[0], ("depthwise", "inner"), polynomial_silu=True)
    nodes = {node.name: node for node in made.model.graph.node}
    dequantised = {n.output[0] for n in made.model.graph.node if n.op_type == "DequantizeLinear"}
    in_integers = {name for name in quantiser.layers if nodes[name].input[0] in dequantised}
    assert in_integers == set(quantiser.layers) - {"depthwise", "inner"}
    assert made.settings["float_layers"] == ["depthwise", "inner"]
    assert made.settings["polynomial_silus"] == 6
    assert "2 in float" in made.label
    assert "polynomial silu" in made.label
    assert not [node for node in made.model.graph.node if node.op_type == "Sigmoid" and "_" in node.name]
    assert quantiser.probe.harm(made.model) < 0.1


def test_onnx_runtime_is_not_mixed(quantiser) -> None:
    assert replace(quantiser, form=Form.ONNXRUNTIME, runtime=Runtime.ONNXRUNTIME).mix == Mix()


def test_the_float_network_of_a_mix_has_its_silus(quantiser, model) -> None:
    assert quantiser._floats(False).model is model
    assert quantiser._floats(True).model == with_polynomial_silu(model)[0]
