"""Every family's files build at every opset that exporters write, with the same numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper, version_converter

from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.checkpoint.opset import NEWEST_OPSET
from detserve_builder.infer_card import infer_card
from detserve_builder.preparation.prepare import prepare
from tests.builder.families.harness import save_network
from tests.builder.families.nms_network import save_nms_network
from tests.builder.families.test_recognition import CASES
from tests.builder.families.test_ssd import CASES as SSD_CASES
from tests.builder.families.test_ssd import network as save_ssd
from tests.builder.tiny_networks import pictures

OPSETS = (11, 13, 17, 18, 20, 22, NEWEST_OPSET)


def at_opset(path: Path, opset: int) -> Path:
    """The network converted by onnx; the file's own outputs at that opset are what prepare compares with."""
    model = onnx.load(path)
    if opset >= 13:
        model = version_converter.convert_version(model, opset)
    else:
        model.opset_import[0].version = opset
        for node in model.graph.node:
            _axes_as_attribute(model, node)
    model.ir_version = helper.find_min_ir_version_for(list(model.opset_import))
    converted = path.with_name(f"opset_{opset}.onnx")
    onnx.save(model, converted)
    return converted


def _axes_as_attribute(model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    """Up to opset 12 Squeeze and Unsqueeze have their axes, and Split its sizes, as an attribute."""
    attribute = {"Squeeze": "axes", "Unsqueeze": "axes", "Split": "split"}.get(node.op_type)
    if attribute and len(node.input) == 2:
        value = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
        node.attribute.append(helper.make_attribute(attribute, numpy_helper.to_array(value).tolist()))
        del node.input[1:]


def outputs(path: Path, said: Path) -> dict[str, np.ndarray]:
    checkpoint = load_checkpoint(str(path))
    prepared = prepare(checkpoint, infer_card(checkpoint, said=said), pictures(2))
    assert prepared.model.ir_version == helper.find_min_ir_version_for(list(prepared.model.opset_import))
    session = ort.InferenceSession(prepared.model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = ["boxes", "scores", "classes"]
    return dict(zip(names, session.run(names, {"images": pictures(1)}), strict=True))


def assert_same_at_every_opset(path: Path, said: dict) -> None:
    (path.parent / "said.json").write_text(json.dumps(said))
    expected = outputs(path, path.parent / "said.json")
    for opset in OPSETS:
        found = outputs(at_opset(path, opset), path.parent / "said.json")
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-4, err_msg=f"opset {opset}")


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_family_at_every_opset(tmp_path, case) -> None:
    network, _ = save_network(tmp_path, case.heads, case.tail)
    assert_same_at_every_opset(network, case.said)


@pytest.mark.parametrize("case", SSD_CASES)
def test_ssd_at_every_opset(tmp_path, case) -> None:
    options, said, *_ = SSD_CASES[case]
    assert_same_at_every_opset(save_ssd(tmp_path / "net.onnx", **options), said)


def test_nms_inside_at_every_opset(tmp_path) -> None:
    path = save_nms_network(tmp_path / "net.onnx", score_threshold=0.1)
    assert_same_at_every_opset(path, {})
