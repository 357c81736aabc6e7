"""Files that are cut, of other versions, or hold what cannot be served: one sentence each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.errors import BuildError
from tests.builder.tiny_networks import save_linear_network

HEAD = {"output0": [7, 84]}


def external(folder: Path) -> Path:
    """The network with its weights in net.onnx.data."""
    path = save_linear_network(folder / "net.onnx", HEAD)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    return path


def test_external_weights_are_loaded_and_part_of_the_hash(tmp_path) -> None:
    path = external(tmp_path)
    first = load_checkpoint(str(path))
    assert first.outputs[0].shape == (1, 7, 84)
    data = path.with_name("net.onnx.data")
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)
    assert load_checkpoint(str(path)).sha256 != first.sha256


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data.unlink(), r"are in net\.onnx\.data, which is not beside it; copy that file"),
        (
            lambda data: data.write_bytes(data.read_bytes()[:-9]),
            r"net\.onnx\.data has \d+ bytes, but the weights",
        ),
    ],
)
def test_external_weights_that_are_missing_or_cut(tmp_path, damage, words) -> None:
    path = external(tmp_path)
    damage(path.with_name("net.onnx.data"))
    with pytest.raises(BuildError, match=words) as caught:
        load_checkpoint(str(path))
    assert "\n" not in str(caught.value)


def test_external_weights_outside_the_folder_are_refused(tmp_path) -> None:
    path = external(tmp_path)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        tensor.external_data[0].value = "../elsewhere.data"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BuildError, match="outside the file's folder"):
        load_checkpoint(str(path))


def test_external_weights_that_are_links_are_said_to_be(tmp_path) -> None:
    path = external(tmp_path)
    data = path.with_name("net.onnx.data")
    (tmp_path / "blobs").mkdir()
    data.rename(tmp_path / "blobs/net")
    data.symlink_to(tmp_path / "blobs/net")
    with pytest.raises(BuildError, match="is a link, .* copy the folder with the files themselves"):
        load_checkpoint(str(path))


def test_nan_in_a_constant_inside_a_branch_is_found(tmp_path) -> None:
    path = save_linear_network(tmp_path / "net.onnx", HEAD)
    model = onnx.load(path)
    value = numpy_helper.from_array(np.full((1, 7, 84), np.nan, np.float32))

    def branch(name: str) -> onnx.GraphProto:
        out = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 7, 84])]
        return helper.make_graph([helper.make_node("Constant", [], [name], value=value)], name, [], out)

    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(
        helper.make_node("If", ["yes"], ["more"], then_branch=branch("a"), else_branch=branch("b"))
    )
    onnx.save(model, path)
    with pytest.raises(BuildError, match=r"the weights [ab] \[1, 7, 84\] hold 588 NaN"):
        load_checkpoint(str(path))


@pytest.mark.parametrize(
    ("op", "domain", "words"),
    [
        ("grid_sampler", "mmdeploy", r"grid_sampler \(domain mmdeploy\) .* ONNX Runtime configuration"),
        ("Whatever", "mine", r"Whatever \(domain mine\) is of a plugin that ONNX Runtime does not have"),
        ("NoSuchOperator", "", r"NoSuchOperator \(domain the standard one, which has no such operator\)"),
    ],
)
def test_a_custom_operator_is_named_with_its_domain(tmp_path, op, domain, words) -> None:
    path = save_linear_network(tmp_path / "net.onnx", HEAD)
    model = onnx.load(path)
    model.graph.node.append(helper.make_node(op, ["output0"], ["more"], domain=domain))
    if domain:
        model.opset_import.append(helper.make_opsetid(domain, 1))
    onnx.save(model, path)
    with pytest.raises(BuildError, match=words):
        load_checkpoint(str(path))


@pytest.mark.parametrize(
    ("opset", "ir", "words"),
    [
        (6, 3, "written at ONNX opset 6, expected 7 to 28; export it"),
        (99, 8, "written at ONNX opset 99, expected 7 to 28; export it"),
        (17, 99, "written with ONNX IR version 99, expected 14 at most"),
    ],
)
def test_a_version_that_nothing_reads(tmp_path, opset, ir, words) -> None:
    path = save_linear_network(tmp_path / "net.onnx", HEAD)
    model = onnx.load(path)
    model.opset_import[0].version, model.ir_version = opset, ir
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BuildError, match=words):
        load_checkpoint(str(path))


def test_a_tensor_that_is_lost_is_named(tmp_path) -> None:
    path = save_linear_network(tmp_path / "net.onnx", HEAD)
    model = onnx.load(path)
    del model.graph.initializer[0]
    onnx.save(model, path)
    with pytest.raises(BuildError, match="the node Reshape 'flatten' reads flat_shape, which nothing makes"):
        load_checkpoint(str(path))
