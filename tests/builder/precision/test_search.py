"""Which INT8 candidates are tried, in what order, and where a search ends."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from detserve_builder.mixing.mix import Mix
from detserve_builder.precision.gate import Candidate, Gate, Measured
from detserve_builder.precision.request import Precision
from detserve_builder.precision.search import search
from detserve_builder.quantise.ranges import Method

GATE = Gate(max_ap_drop=0.01, min_speedup=1.0)
HARMS = {"stem": 0.5, "wide": 0.2, "deep": 0.1, "head": 0.01}


def quantiser(mix: Mix) -> SimpleNamespace:
    def candidate(method, in_float, *, heads=False, polynomial_silu=False):
        settings = {"method": method.value, "float_layers": list(in_float), "heads": heads}
        return Candidate("", Precision.INT8, None, settings | {"polynomial": polynomial_silu})

    return SimpleNamespace(
        candidate=candidate,
        methods=[Method.MSE, Method.ENTROPY],
        harms=HARMS,
        mix=mix,
        on_step=lambda step: None,
        on_unfit=lambda why: None,
    )


def tried(needs: dict[str, int], mix: Mix | None = None, *, timed: bool = True):
    """(method, layers in float, heads) of each; method ``m`` keeps the AP with ``needs[m]`` more in float."""
    mix = mix or Mix()

    def measure(candidate):
        made = candidate.settings
        kept = len(set(made["float_layers"]) - set(mix.in_float)) >= needs[made["method"]]
        speedup = 2 - 0.1 * len(made["float_layers"])
        return Measured(candidate, 0.3, 0.0 if kept else 0.05, None, speedup if timed else None)

    found = [one.candidate.settings for one in search(quantiser(mix), GATE, measure)]
    assert {one["polynomial"] for one in found} == {mix.polynomial_silu}
    return [(one["method"], len(one["float_layers"]), one["heads"]) for one in found]


def test_another_method_is_tried_only_with_fewer_layers_in_float_than_one_that_passed() -> None:
    assert tried({"mse": 0, "entropy": 0}) == [("mse", 0, False), ("mse", 0, True)]
    assert tried({"mse": 2, "entropy": 1}) == [
        *(("mse", 0, False), ("mse", 1, False), ("mse", 2, False)),
        *(("entropy", 0, False), ("entropy", 1, False), ("entropy", 1, True)),
    ]
    assert tried({"mse": 1, "entropy": 9})[2:] == [("entropy", 0, False), ("mse", 1, True)]


def test_where_speed_is_not_known_every_method_is_tried() -> None:
    assert tried({"mse": 0, "entropy": 0}, timed=False)[:2] == [("mse", 0, False), ("entropy", 0, False)]


@pytest.mark.parametrize("polynomial_silu", [False, True])
def test_what_gains_nothing_is_in_float_whatever_is_tried(polynomial_silu: bool) -> None:
    mix = Mix(("deep", "head"), polynomial_silu)
    assert tried({"mse": 1, "entropy": 9}, mix) == [
        *(("mse", 2, False), ("mse", 3, False), ("entropy", 2, False), ("mse", 3, True)),
    ]
