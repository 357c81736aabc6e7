"""Where a range ends, for each method."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from detserve_builder.quantise.ranges import Method, activations_of, ranges
from detserve_builder.quantise.statistics import BINS, Statistics


def statistics_of(values: np.ndarray) -> Statistics:
    low, high = np.float32(values.min()), np.float32(values.max())
    counts, _ = np.histogram(values, BINS, (low, high) if high > low else (low, low + 1))
    return Statistics(("t",), np.array([low]), np.array([high]), counts[None])


def error(values: np.ndarray, low: float, high: float, steps: int = 255) -> float:
    step = (high - low) / steps
    zero = np.rint(-low / step)
    rounded = (np.clip(np.rint(values / step) + zero, 0, steps) - zero) * step
    return float(((values - rounded) ** 2).mean())


@given(
    seed=st.integers(0, 2**32 - 1),
    shift=st.floats(-3, 3),
    scale=st.floats(1e-3, 1e3),
    method=st.sampled_from(Method),
    symmetric=st.booleans(),
)
@example(seed=227, shift=3.0, scale=1.0, method=Method.ENTROPY, symmetric=False)  # none is near zero
def test_a_range_holds_zero_and_no_more_than_occurred(seed, shift, scale, method, symmetric) -> None:
    values = (np.random.default_rng(seed).standard_normal(2000) + shift) * scale
    low, high = ranges(statistics_of(values), method, symmetric=symmetric)["t"]
    slack = 1e-5 * scale * 8
    assert low <= 0 <= high
    assert low < high
    if symmetric:
        assert low == -high
        assert high <= np.abs(values).max() + slack
    else:
        assert low >= min(values.min(), 0) - slack
        assert high <= max(values.max(), 0) + slack
    if method is Method.MIN_MAX:
        assert high >= values.max() - slack


@given(seed=st.integers(0, 2**32 - 1))
def test_mse_errs_less_than_min_max_where_few_values_are_large(seed) -> None:
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.standard_normal(50_000), [60.0]])
    found = {m: ranges(statistics_of(values), m, symmetric=False)["t"] for m in (Method.MSE, Method.MIN_MAX)}
    assert error(values, *found[Method.MSE]) < error(values, *found[Method.MIN_MAX])


@pytest.mark.parametrize("method", [Method.PERCENTILE, Method.ENTROPY])
def test_a_lone_large_value_is_clipped(method) -> None:
    values = np.concatenate([np.random.default_rng(0).standard_normal(200_000), [30.0]])
    assert 2 < ranges(statistics_of(values), method, symmetric=True)["t"][1] < 15


def test_values_that_silu_flattens_need_no_room(model) -> None:
    functions = activations_of(model)
    assert functions["wide"](np.array([0.0, -40.0, 8.0])) == pytest.approx([0, 0, 8], abs=0.01)
    assert "residual" not in functions  # two layers read it
    values = np.random.default_rng(0).uniform(-120, 20, 100_000)
    low, high = ranges(
        statistics_of(values), Method.MSE, symmetric=False, activations={"t": functions["wide"]}
    )["t"]
    assert low > -12
    assert high > 18


def test_a_tensor_of_zeros() -> None:
    statistics = Statistics(
        ("t",), np.zeros(1, np.float32), np.zeros(1, np.float32), np.eye(1, BINS, dtype=np.int64) * 7
    )
    assert [ranges(statistics, method, symmetric=False)["t"] for method in Method] == [(0, 0)] * 4
