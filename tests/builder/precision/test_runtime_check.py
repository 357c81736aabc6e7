"""A runtime is chosen only where it computes what ONNX Runtime does."""

from __future__ import annotations

import json

import numpy as np
import pytest

from detserve_builder.build import build, probe_pictures
from detserve_builder.errors import BuildError
from detserve_builder.graph.network import Unfit
from detserve_builder.precision import runtime_check
from detserve_builder.precision.gate import Candidate
from detserve_builder.precision.request import Precision, PrecisionRequest
from detserve_builder.precision.runtime_check import check_runtime
from detserve_builder.runtime import Runtime
from tests.builder.precision.networks import prepared, save_convolutional_network, write_pictures
from tests.builder.precision.quantised_networks import save_quantised_network, save_with_resize
from tests.shared_data import SHARED, needs_shared

OPENVINO = PrecisionRequest(runtime=Runtime.OPENVINO)


def candidate(model, precision=Precision.FP32) -> Candidate:
    return Candidate(precision.value, precision, model, {}, runtime=Runtime.OPENVINO)


def test_a_float_network_gives_the_same_and_bf16_is_measured(tmp_path) -> None:
    model, card = prepared(tmp_path / "net.onnx")
    images = probe_pictures(card)
    assert check_runtime(candidate(model), images, None) == {}
    moved = check_runtime(candidate(model, Precision.BF16), images, None)
    assert set(moved) == {"score", "box_px"}
    assert moved["score"] < 0.2


@pytest.mark.parametrize("form", ["operators", "sixteen"])
def test_a_quantised_network_that_openvino_gets_wrong_is_not_built_for_it(tmp_path, form) -> None:
    path = save_quantised_network(tmp_path / "net.onnx", form, relu=True)
    with pytest.raises(
        BuildError, match="OpenVINO (computes this quantised network differently|does not run)"
    ):
        build(str(path), name="tiny", repository=tmp_path / "r", request=OPENVINO)
    assert not (tmp_path / "r").exists()
    build(str(path), name="tiny", repository=tmp_path / "r")


def test_a_quantised_network_that_it_rounds_otherwise_is(tmp_path) -> None:
    path = save_quantised_network(tmp_path / "net.onnx", "unsigned")
    build(str(path), name="tiny", repository=tmp_path / "r", request=OPENVINO)


def test_an_antialiased_resize_is_not(tmp_path) -> None:
    request = OPENVINO
    build(str(save_with_resize(tmp_path / "a.onnx")), name="tiny", repository=tmp_path / "a", request=request)
    sentence = (
        r"OpenVINO computes this network differently .* scores by up to [0-9.]+ and boxes by up to [0-9.]+ px"
    )
    with pytest.raises(BuildError, match=sentence):
        build(
            str(save_with_resize(tmp_path / "b.onnx", antialias=1)),
            name="tiny",
            repository=tmp_path / "b",
            request=request,
        )


def test_a_free_choice_goes_on_without_it_and_says_why(tmp_path) -> None:
    pictures = write_pictures(tmp_path / "pictures", 6)
    request = PrecisionRequest(calibrate=pictures, images=pictures, max_ap_drop=0.3)
    path = save_with_resize(tmp_path / "net.onnx", antialias=1)
    outcome = build(str(path), name="tiny", repository=tmp_path / "r", request=request).outcome
    labels = [measured.candidate.label for measured in outcome.tried]
    assert labels
    assert not [label for label in labels if "openvino" in label]
    assert outcome.built.runtime is Runtime.ONNXRUNTIME
    left_out = json.loads((tmp_path / "r/tiny/detserve.json").read_text())["measured"]["precision"][
        "left_out"
    ]
    assert {why.split(":")[0].split(",")[0] for why in left_out} >= {"fp32"}
    assert [note for note in outcome.notes if note.startswith("left out: fp32, openvino: OpenVINO computes")]


def test_what_a_runtime_does_not_compile_is_a_sentence(tmp_path, monkeypatch) -> None:
    def refuse(*_, **__):
        raise RuntimeError("Exception from src/inference\nno kernel for this\n")

    monkeypatch.setattr(runtime_check, "OpenVinoSession", refuse)
    model, card = prepared(tmp_path / "net.onnx")
    with pytest.raises(Unfit, match=r"fp32: OpenVINO does not run this network \(no kernel for this\)"):
        check_runtime(candidate(model), probe_pictures(card), None)


def test_a_stated_runtime_is_checked_before_a_search(tmp_path) -> None:
    pictures = write_pictures(tmp_path / "pictures", 6)
    request = PrecisionRequest(calibrate=pictures, images=pictures, runtime=Runtime.OPENVINO)
    path = save_with_resize(tmp_path / "net.onnx", antialias=1)
    with pytest.raises(BuildError, match="OpenVINO computes this network differently"):
        build(str(path), name="tiny", repository=tmp_path / "r", request=request)


def test_rows_that_a_selecting_network_orders_otherwise_are_found() -> None:
    rng = np.random.default_rng(0)
    corner, scores = rng.uniform(0, 60, (2, 50, 2)), rng.uniform(0, 1, (2, 50)).astype(np.float32)
    boxes = np.concatenate([corner, corner + 4], axis=2).astype(np.float32)
    order = rng.permutation(50)
    aligned = runtime_check._aligned((boxes, scores), (boxes[:, order], scores[:, order]))
    np.testing.assert_array_equal(aligned[0], boxes)
    np.testing.assert_array_equal(aligned[1], scores)


def test_infinite_boxes_are_equal_and_nan_is_not() -> None:
    one = np.array([[[0, 0, np.inf, np.inf]]], np.float32)
    scores = np.array([[0.5]], np.float32)
    assert runtime_check._same(one, scores, one, scores).all()
    assert not runtime_check._same(one, scores, np.full_like(one, np.nan), scores).any()


@needs_shared
def test_an_end_to_end_head_runs_on_openvino(tmp_path) -> None:
    """OpenVINO 2026.4 makes a GatherElements of all columns from neighbouring Slices."""
    path = SHARED / "models/todays/exported/fail_yolo26n_fp16.onnx"
    build(str(path), name="tiny", repository=tmp_path / "r", request=OPENVINO)


def test_the_network_is_left_as_it_is(tmp_path) -> None:
    path = save_convolutional_network(tmp_path / "net.onnx")
    for name, request in (("openvino", OPENVINO), ("onnxruntime", PrecisionRequest())):
        build(str(path), name="tiny", repository=tmp_path / name, request=request)
    one, other = (
        (tmp_path / name / "tiny_pipeline/1/model.onnx").read_bytes() for name in ("openvino", "onnxruntime")
    )
    assert one == other
