"""What is set to zero, and what its absence is made up for with."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from detserve_builder.errors import BuildError
from detserve_builder.graph.session import open_session
from detserve_builder.prune.weights import (
    fits_two_in_four,
    magnitude_masks,
    parse_pruning,
    prune,
    two_in_four,
)
from detserve_builder.quantise.int8 import Form, quantisable_nodes


def weights_of(model) -> dict[str, np.ndarray]:
    return {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}


@given(
    seed=st.integers(0, 2**32 - 1), out=st.integers(1, 9), fours=st.integers(1, 6), kernel=st.integers(1, 3)
)
def test_two_of_every_four_input_channels_stay_and_they_are_the_largest(seed, out, fours, kernel) -> None:
    weight = np.random.default_rng(seed).normal(size=(out, fours * 4, kernel, kernel)).astype(np.float32)
    mask = two_in_four(weight).reshape(out, fours, 4, kernel, kernel)
    magnitude = np.abs(weight).reshape(mask.shape)
    assert (mask.sum(axis=2) == 2).all()
    assert (np.where(mask, magnitude, np.inf).min(2) >= np.where(mask, -np.inf, magnitude).max(2)).all()


@given(seed=st.integers(0, 2**32 - 1), ratio=st.floats(0.05, 0.95))
def test_the_ratio_is_that_of_all_weights(seed, ratio) -> None:
    rng = np.random.default_rng(seed)
    weights = {str(i): rng.normal(0, 10.0**-i, (8, 16, 3, 3)).astype(np.float32) for i in range(3)}
    masks = magnitude_masks(weights, ratio)
    removed = sum((~mask).sum() for mask in masks.values()) / sum(w.size for w in weights.values())
    assert removed == pytest.approx(ratio, abs=0.01)
    assert all(mask.any() for mask in masks.values())  # a layer of small weights is not emptied


def test_2_4_where_tensorrt_has_kernels_for_it(model, source) -> None:
    made, sparsity = prune(model, "2:4", quantisable_nodes(model, Form.ONNXRUNTIME), source)
    assert sparsity == {"wide": 0.5, "inner": 0.5, "down16": 0.5, "down32": 0.5}
    weights = weights_of(made)
    for name in sparsity:
        zeros = (weights[f"{name}_weight"] == 0).reshape(32, -1, 4, *weights[f"{name}_weight"].shape[2:])
        assert (zeros.sum(axis=2) == 2).all()
    assert not (weights["depthwise_weight"] == 0).any()
    assert not fits_two_in_four(weights["stem_weight"])


def test_biases_make_up_for_the_shift_of_the_mean(model, source) -> None:
    made, _ = prune(model, 0.6, quantisable_nodes(model, Form.ONNXRUNTIME), source)
    without = prune(model, 0.6, quantisable_nodes(model, Form.ONNXRUNTIME), source)[0]
    given = {i.name: i for i in model.graph.initializer}
    for bias in without.graph.initializer:
        if bias.name.endswith("_corrected_bias"):
            bias.raw_data = given[bias.name.replace("_corrected_bias", "_bias")].raw_data

    def shift(pruned) -> float:
        sessions = [open_session(m, outputs=("wide",)) for m in (model, pruned)]
        means = [
            np.mean(
                [s.run(("wide",), {"images": i})[0].mean(axis=(0, 2, 3)) for i in source.images()], axis=0
            )
            for s in sessions
        ]
        return float(np.abs(means[0] - means[1]).mean())

    assert shift(made) < shift(without) / 10


@pytest.mark.parametrize(
    "said",
    ["1:4", "0", "1", "1.5", "-0.1", "half", "nan", "channels:", "channels:1", "channels", "filters:0.2"],
)
def test_what_is_no_pruning_is_refused(said) -> None:
    with pytest.raises(BuildError, match="expected 2:4, the share"):
        parse_pruning(said)
