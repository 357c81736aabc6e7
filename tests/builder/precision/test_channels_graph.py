"""Channels that nothing listens to can go, whatever the network is made of."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from detserve_builder.graph.session import open_session
from detserve_builder.prune.channels_graph import Coupling, coupling
from detserve_builder.prune.channels_removal import without_channels
from tests.builder.precision.channel_networks import (
    SIZE,
    STEPS,
    Writer,
    activation,
    grouped,
    random_network,
    shuffled,
    spatial_attention,
)

networks = st.builds(
    random_network, st.integers(0, 2**32 - 1), st.lists(st.integers(0, len(STEPS) - 1), max_size=6)
)


def some_of(coupled: Coupling, rng: np.random.Generator) -> set[int]:
    """Some channels of every group, never all."""
    chosen: set[int] = set()
    for group in coupled.groups:
        count = int(rng.integers(0, len(group.channels)))
        chosen.update(rng.choice(group.channels, count, replace=False).tolist())
    return chosen


def unheard(model: onnx.ModelProto, coupled: Coupling, channels: set[int]) -> onnx.ModelProto:
    """The model with all weights zero by which convolutions read the ``channels``."""
    deaf = onnx.ModelProto()
    deaf.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in deaf.graph.initializer}
    readers = {name for group in coupled.groups for name in group.readers}
    for node in deaf.graph.node:
        if node.name in readers:
            weight = numpy_helper.to_array(constants[node.input[1]]).copy()
            weight[:, np.isin(coupled.channels[node.input[0]], list(channels))] = 0
            constants[node.input[1]].CopyFrom(numpy_helper.from_array(weight, node.input[1]))
    return deaf


def run(model: onnx.ModelProto) -> list[np.ndarray]:
    picture = np.random.default_rng(1).normal(size=(1, 3, SIZE, SIZE)).astype(np.float32)
    return open_session(model).run(None, {"images": picture})


def weights(model: onnx.ModelProto) -> int:
    """How many floats its initializers hold; which channels a layer reads may be kept beside them."""
    return sum(math.prod(t.dims) for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT)


@settings(max_examples=150, deadline=None)
@given(model=networks, seed=st.integers(0, 2**32 - 1))
def test_removing_what_nothing_hears_changes_nothing(model, seed) -> None:
    coupled = coupling(model)
    removed = some_of(coupled, np.random.default_rng(seed))
    deaf = unheard(model, coupled, removed)
    smaller = without_channels(deaf, coupled, removed)
    for whole, less in zip(run(deaf), run(smaller), strict=True):
        np.testing.assert_allclose(less, whole, rtol=1e-4, atol=1e-4)
    if removed:
        assert weights(smaller) < weights(deaf)
    for name, ids in coupled.channels.items():
        shape = shapes_of(smaller).get(name)
        assert shape is None or shape[1] == len(ids) - np.isin(ids, list(removed)).sum()


@settings(max_examples=50, deadline=None)
@given(model=networks, seed=st.integers(0, 2**32 - 1))
def test_what_is_whole_keeps_its_bytes(model, seed) -> None:
    coupled = coupling(model)
    removed = some_of(coupled, np.random.default_rng(seed))
    before, after = (
        {t.name: t.SerializeToString() for t in m.graph.initializer}
        for m in (model, without_channels(model, coupled, removed))
    )
    whole = {name for name, ids in coupled.channels.items() if not np.isin(ids, list(removed)).any()}
    for node in model.graph.node:
        if node.op_type == "Conv" and {node.input[0], node.output[0]} <= {*whole, "images"}:
            assert all(after[name] == before[name] for name in node.input[1:])
    one, two = (without_channels(model, coupled, removed).SerializeToString() for _ in range(2))
    assert one == two


@pytest.mark.parametrize(
    ("step", "frozen"), [(grouped, 8), (shuffled, 8), (spatial_attention, 1)], ids=lambda s: str(s)[:20]
)
def test_what_is_not_followed_is_frozen(step, frozen) -> None:
    net = Writer(np.random.default_rng(0))
    x = activation(net, net.conv("images", 16))
    made = net.model([net.conv(step(net, x), 4)])
    coupled = coupling(made)
    free = {channel for group in coupled.groups for channel in group.channels.tolist()}
    first, second = [node for node in made.graph.node if node.op_type == "Conv"][:2]
    assert free.issuperset(coupled.channels[first.output[0]].tolist())
    assert len(coupled.channels[second.output[0]]) == frozen
    assert free.isdisjoint(coupled.channels[second.output[0]].tolist())


def test_nodes_of_detserve_freeze_what_they_read() -> None:
    net = Writer(np.random.default_rng(0))
    inner = net.conv("images", 8)
    net.add("Relu", [inner], 8)
    net.nodes[-1].name = "detserve/relu"
    assert coupling(net.model([net.nodes[-1].output[0]])).groups == ()


def shapes_of(model: onnx.ModelProto) -> dict[str, list[int]]:
    return {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.value_info, *model.graph.output)
    }
