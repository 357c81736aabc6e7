"""A network that came quantised is built as it came, is said to be, and no pass breaks it."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest

from detserve_builder.build import build
from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.errors import BuildError
from detserve_builder.graph.network import own_layers
from detserve_builder.graph.session import open_session
from detserve_builder.precision.already_quantised import slower_than_floats, without_quantisation
from detserve_builder.precision.request import Precision, PrecisionRequest
from detserve_builder.precision.speed import Speed
from tests.builder.precision.networks import prepared, write_pictures
from tests.builder.precision.quantised_networks import save_quantised_network
from tests.shared_data import SHARED, needs_shared

DYNAMIC = SHARED / "models/todays/trained/yolov8n_int8_dashcam.onnx"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"), 6)


@pytest.fixture(scope="module", params=["signed", "unsigned", "operators"])
def came(request, tmp_path_factory):
    return save_quantised_network(tmp_path_factory.mktemp(request.param) / "net.onnx", request.param)


def record(repository) -> dict:
    return json.loads((repository / "tiny/detserve.json").read_text())


def operators(repository) -> list[str]:
    model = onnx.load(repository / "tiny_pipeline/1/model.onnx")
    return sorted(node.op_type for node in model.graph.node)


def test_int8_leaves_its_layers_alone_and_says_so(tmp_path, came, pictures) -> None:
    build(str(came), name="tiny", repository=tmp_path / "plain")
    request = PrecisionRequest(Precision.INT8, calibrate=pictures)
    built = build(str(came), name="tiny", repository=tmp_path / "int8", request=request)
    assert operators(tmp_path / "plain") == operators(tmp_path / "int8")
    plain, int8 = record(tmp_path / "plain"), record(tmp_path / "int8")
    assert "9 of 9 layers are quantised as they came" in plain["measured"]["precision"]["as_it_came"]
    assert (plain["precision"], int8["precision"]) == ("fp32", "int8")
    assert int8["measured"]["precision"]["built"] == {
        "label": "int8 as it came",
        "layers_quantised": 9,
        "layers": 9,
    }
    assert built.outcome.notes[0].endswith("and left alone")


@pytest.mark.parametrize(
    "asked",
    [{"precision": Precision.FP16}, {"precision": Precision.INT16}, {"prune": "0.3"}, {"prune": "2:4"}],
)
def test_other_passes_find_no_layer_and_are_refused(tmp_path, came, pictures, asked) -> None:
    request = PrecisionRequest(**asked, calibrate=pictures)
    with pytest.raises(BuildError, match=r"9 of 9 layers are quantised as they came .* leave .* out"):
        build(str(came), name="tiny", repository=tmp_path / "r", request=request)
    assert not (tmp_path / "r").exists()


def test_a_free_choice_tries_runtimes_and_says_why_nothing_else(tmp_path, pictures) -> None:
    path = save_quantised_network(tmp_path / "net.onnx", "unsigned")
    request = PrecisionRequest(calibrate=pictures, images=pictures, max_ap_drop=0.3)
    outcome = build(str(path), name="tiny", repository=tmp_path / "r", request=request).outcome
    labels = [measured.candidate.label for measured in outcome.tried]
    assert labels == ["fp32", "fp32, openvino", "bf16, openvino"]
    left_out = record(tmp_path / "r")["measured"]["precision"]["left_out"]
    assert [why.split(":")[0] for why in left_out] == ["fp16", "int16", "int8"]
    assert all("9 of 9 layers are quantised as they came (Q/DQ)" in why for why in left_out)


def test_fp16_of_a_network_that_is_quantised_in_part_keeps_the_quantised_part(tmp_path, pictures) -> None:
    path = save_quantised_network(
        tmp_path / "net.onnx", "unsigned", nodes_to_exclude=["stem", "head8", "head16", "head32"]
    )
    build(
        str(path),
        name="tiny",
        repository=tmp_path / "r",
        request=PrecisionRequest(Precision.FP16, calibrate=pictures),
    )
    built = record(tmp_path / "r")["measured"]["precision"]["built"]
    assert (built["layers_changed"], built["layers"]) == (4, 9)
    model = onnx.load(tmp_path / "r/tiny_pipeline/1/model.onnx")
    made = {name: node.op_type for node in model.graph.node for name in node.output}
    quantised = [
        node for node in model.graph.node if node.op_type == "Conv" and node.name in ("wide", "inner")
    ]
    assert {made[node.input[1]] for node in quantised} == {"DequantizeLinear"}
    assert {made[node.input[0]] for node in quantised} == {"DequantizeLinear"}


def test_too_few_that_came_quantised_are_no_int8(tmp_path, pictures) -> None:
    path = save_quantised_network(tmp_path / "net.onnx", "unsigned", nodes_to_quantize=["wide", "inner"])
    with pytest.raises(BuildError, match="int8: 2 of 9 layers are quantised as they came"):
        build(
            str(path),
            name="tiny",
            repository=tmp_path / "r",
            request=PrecisionRequest(Precision.INT8, calibrate=pictures),
        )


def test_16_bit_activations_are_no_int8(tmp_path, pictures) -> None:
    path = save_quantised_network(tmp_path / "net.onnx", "sixteen")
    request = PrecisionRequest(Precision.INT8, calibrate=pictures)
    with pytest.raises(BuildError, match=r"9 of 9 layers are quantised as they came \(16-bit Q/DQ\)"):
        build(str(path), name="tiny", repository=tmp_path / "r", request=request)


@pytest.mark.parametrize(("form", "relu"), [("signed", False), ("unsigned", False), ("sixteen", True)])
def test_the_float_original_is_that_which_was_quantised(tmp_path, form, relu) -> None:
    """Quantisers take out a Relu for which the lack of negative values stands."""
    path = save_quantised_network(tmp_path / "net.onnx", form, relu=relu)
    floats = without_quantisation(load_checkpoint(str(path)).model)
    assert not own_layers(floats).quantised
    original = load_checkpoint(str(tmp_path / "net.float.onnx")).model
    picture = np.random.default_rng(0).uniform(0, 255, (1, 3, 64, 64)).astype(np.float32)
    one, other = (open_session(model).run(None, {"images": picture})[0] for model in (floats, original))
    assert np.abs(one[..., 4:] - other[..., 4:]).max() < 0.02


def test_operators_on_integers_have_no_float_original(tmp_path) -> None:
    path = save_quantised_network(tmp_path / "net.onnx", "operators")
    assert without_quantisation(load_checkpoint(str(path)).model) is None


@pytest.mark.parametrize(("speedup", "said"), [(0.4, True), (0.95, False), (2.0, False)])
def test_slower_than_its_float_original_is_said(tmp_path, monkeypatch, speedup, said) -> None:
    speed = Speed(float_ms=4.0, candidate_ms=4.0 / speedup, speedup=speedup)
    monkeypatch.setattr("detserve_builder.precision.already_quantised.interleaved", lambda *_, **__: speed)
    model = load_checkpoint(str(save_quantised_network(tmp_path / "net.onnx", "signed"))).model
    found = slower_than_floats(model, np.zeros((1, 64, 64, 3), np.uint8))
    assert (found is not None) == said
    if found:
        assert "signed activations" in found
        assert "it takes 10.0 ms, its float original 4.0 ms" in found


def test_a_float_network_is_not_said_to_be_slow(tmp_path) -> None:
    assert slower_than_floats(prepared(tmp_path / "net.onnx")[0], np.zeros((1, 64, 64, 3), np.uint8)) is None


@needs_shared
def test_a_dynamically_quantised_file(tmp_path) -> None:
    built = build(str(DYNAMIC), name="tiny", repository=tmp_path / "r")
    assert built.outcome.notes == ("64 of 64 layers are quantised as they came (dynamic)",)
    assert record(tmp_path / "r")["measured"]["precision"]["as_it_came"] == built.outcome.notes[0]
