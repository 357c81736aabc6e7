"""Which channels go, what makes up for them, and what is said of it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from detserve_builder.build import build
from detserve_builder.errors import BuildError
from detserve_builder.graph.session import open_session
from detserve_builder.precision.request import PrecisionRequest
from detserve_builder.precision.sensitivity import probe
from detserve_builder.prune.channels import prune_channels
from detserve_builder.prune.channels_elimination import Elimination
from detserve_builder.prune.channels_moments import Moments, patches, refitted
from tests.builder.precision.channel_networks import SIZE, Writer
from tests.builder.precision.networks import save_convolutional_network, write_pictures
from tests.builder.precision.test_passes import detector, manifest


def weights_of(model) -> dict[str, np.ndarray]:
    nodes = [node for node in model.graph.node if node.op_type == "Conv"]
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    return {node.name: numpy_helper.to_array(constants[node.input[1]]) for node in nodes}


def test_the_network_is_smaller_and_says_where(model, source, float_probe) -> None:
    made, kept, saved = prune_channels(model, 0.1, source, float_probe)
    before, after = weights_of(model), weights_of(made)
    assert kept
    for name, weight in before.items():
        keeps, had = kept.get(name, (len(weight), len(weight)))
        assert (len(after[name]), len(weight)) == (keeps, had)
        assert keeps == had or keeps % 4 == 0
    assert made.ByteSize() < model.ByteSize()
    assert not {name for name in kept if name.startswith("head")}
    assert saved >= 0.1
    again, *_ = prune_channels(model, 0.1, source, float_probe)
    assert again.SerializeToString() == made.SerializeToString()


def test_channels_that_repeat_others_go_before_those_that_do_not(model, source, float_probe) -> None:
    twins = onnx.ModelProto()
    twins.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in twins.graph.initializer}
    for name in ("wide", "depthwise", "inner"):
        for part in (f"{name}_weight", f"{name}_bias"):
            values = numpy_helper.to_array(constants[part]).copy()
            values[16:] = values[:16]
            constants[part].CopyFrom(numpy_helper.from_array(values, part))
    twins_probe = probe(twins, source)
    made, kept, _ = prune_channels(twins, 0.2, source, twins_probe)
    others, others_kept, _ = prune_channels(model, 0.2, source, float_probe)
    assert kept["wide"] == kept["depthwise"] == kept["inner"] == (24, 32)
    assert "wide" not in others_kept
    assert twins_probe.harm(made) < float_probe.harm(others)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(2, 6), kernel=st.integers(1, 2))
def test_one_of_each_pair_of_twins_is_eliminated_at_no_cost(seed, size, kernel) -> None:
    rng = np.random.default_rng(seed)
    read = rng.normal(size=(2000, size, kernel * kernel)) * rng.uniform(0.5, 2, (1, size, 1))
    both = np.concatenate([read, read], axis=1).reshape(2000, -1)
    seen = Moments(both.mean(axis=0), np.cov(both.T, bias=True) + 1e-7 * np.eye(both.shape[1]))
    weight = rng.normal(size=(5, 2 * size, kernel, kernel)).astype(np.float32)
    ids = np.arange(2 * size)
    elimination = Elimination.of(weight, seen, ids, ids)
    gone: list[int] = []
    for _ in range(size):
        costs = elimination.costs()
        gone.append(int(np.argmin(costs)))
        assert costs[gone[-1]] < 1e-5
        elimination.eliminate(gone[-1])
    assert sorted(channel % size for channel in gone) == list(range(size))
    assert elimination.costs()[np.setdiff1d(ids, gone)].min() > 1e-3


@pytest.mark.parametrize(
    ("rule", "dilation"), [("NOTSET", 1), ("NOTSET", 2), ("SAME_UPPER", 1), ("SAME_LOWER", 1)]
)
@pytest.mark.parametrize(("stride", "kernel"), [(1, 3), (2, 3), (2, 2)])
def test_patches_are_what_a_convolution_reads(rule, stride, dilation, kernel) -> None:
    net = Writer(np.random.default_rng(3))
    name = net.conv("images", 5, kernel)
    node = net.nodes[0]
    del node.attribute[:], node.input[2:]
    attributes = {"strides": [stride] * 2, "dilations": [dilation] * 2, "kernel_shape": [kernel] * 2}
    attributes |= {"pads": [0, 1, 2, 1]} if rule == "NOTSET" else {"auto_pad": rule}
    node.attribute.extend(onnx.helper.make_attribute(key, value) for key, value in attributes.items())
    picture = net.rng.normal(size=(1, 3, SIZE, SIZE)).astype(np.float32)
    made = open_session(net.model([name])).run(None, {"images": picture})[0]
    weight = net.constants[node.input[1]]
    read = patches(picture, node, (kernel, kernel))
    expected = read @ weight.reshape(5, -1).T
    flat = made[0].reshape(5, -1).T
    places = np.unique(np.linspace(0, len(flat) - 1, len(read)).astype(int))
    np.testing.assert_allclose(expected, flat[places], rtol=1e-4, atol=1e-4)


def test_least_squares_finds_what_stands_for_the_removed() -> None:
    rng = np.random.default_rng(0)
    kept = rng.normal(1, 1, (1000, 6))
    read = np.concatenate([kept, kept[:, :2] @ [[1.0], [2.0]] + 3], axis=1)
    mean = read.mean(axis=0)
    seen = Moments(mean, np.cov(read.T, bias=True) + 1e-9 * np.eye(7))
    weight = rng.normal(size=(4, 7))
    fitted, shift = refitted(weight, np.arange(7) < 6, seen)
    np.testing.assert_allclose(kept @ fitted.T + shift, read @ weight.T, atol=1e-4)


def test_more_than_half_is_refused(model, source, float_probe) -> None:
    with pytest.raises(BuildError, match=r"--prune channels:0\.9: .* ask for less"):
        prune_channels(model, 0.9, source, float_probe)


def test_a_build_with_fewer_channels(tmp_path) -> None:
    network = save_convolutional_network(tmp_path / "net.onnx")
    pictures = write_pictures(tmp_path / "pictures", 6)
    request = PrecisionRequest(prune="channels:0.1", calibrate=pictures)
    build(str(network), name="tiny", repository=tmp_path / "whole")
    build(str(network), name="tiny", repository=tmp_path / "r", request=request)
    assert len(detector(tmp_path / "r")) < len(detector(tmp_path / "whole"))
    built = manifest(tmp_path / "r")["measured"]["precision"]["built"]
    assert built["prune"] == "channels:0.1"
    assert all(keeps < had for keeps, had in built["channels_kept_of"].values())


def test_the_gate_refuses_what_it_costs(tmp_path) -> None:
    network = save_convolutional_network(tmp_path / "net.onnx")
    pictures = write_pictures(tmp_path / "pictures", 6)
    request = PrecisionRequest(
        prune="channels:0.2", calibrate=pictures, images=pictures, max_ap_drop=0.0, min_speedup=1000
    )
    outcome = build(str(network), name="tiny", repository=tmp_path / "r", request=request).outcome
    assert outcome.chosen is None
    assert any(measured.candidate.label == "pruned channels:0.2" for measured in outcome.tried)
