"""YOLOX-nano in INT8, and with SiLU as a polynomial, keeps the AP that plain calibration loses."""

from __future__ import annotations

import pytest

from detserve_builder.build import probe_pictures
from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.graph.network import named_nodes
from detserve_builder.graph.session import open_session
from detserve_builder.infer_card import infer_card
from detserve_builder.mixing.layer_gains import layer_gains_ms
from detserve_builder.mixing.silu import with_polynomial_silu
from detserve_builder.precision.candidate_accuracy import average_precision, labelled_dataset
from detserve_builder.precision.search import Quantiser
from detserve_builder.precision.sensitivity import probe
from detserve_builder.preparation.prepare import prepare
from detserve_builder.quantise.calibration import calibration_folder
from detserve_builder.quantise.int8 import Form, measured_tensors, quantisable_nodes
from detserve_builder.quantise.ranges import Method
from detserve_builder.quantise.statistics import measure
from detserve_builder.runtime import Runtime
from tests.shared_data import SHARED, VAL64, YOLOX, needs_shared

pytestmark = needs_shared
STEM = ("Conv_41", "Conv_44")  # two layers whose channels differ a thousandfold in range


@pytest.fixture(scope="module")
def yolox():
    checkpoint = load_checkpoint(str(YOLOX))
    card = infer_card(checkpoint, name="yolox")
    model = named_nodes(prepare(checkpoint, card, probe_pictures(card)).model)
    source = calibration_folder(SHARED / "datasets/coco_train_calib/images", card)
    dataset = labelled_dataset(VAL64 / "instances_val64.json", VAL64 / "images", card)
    return model, card, source, dataset, average_precision(open_session(model), card, dataset)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "least_drop"), [(Form.ONNXRUNTIME, 0.05), (Form.OPENVINO, 0.03), (Form.TENSORRT, 0.05)]
)
def test_ap_with_the_stem_in_float(yolox, form, least_drop) -> None:
    model, card, source, dataset, float_ap = yolox
    tensors = measured_tensors(model, quantisable_nodes(model, form))
    statistics = measure(model, tensors, source)
    quantiser = Quantiser(model, statistics, probe(model, source), form, lambda step: None)
    assert average_precision(quantiser.candidate(Method.MSE, STEM).open(), card, dataset) > float_ap - 0.015
    assert (
        average_precision(quantiser.candidate(Method.MSE, ()).open(), card, dataset) < float_ap - least_drop
    )


@pytest.mark.slow
def test_ap_with_silu_as_a_polynomial_and_half_of_the_layers_in_float(yolox) -> None:
    model, card, source, dataset, float_ap = yolox
    smooth, count = with_polynomial_silu(model)
    assert count == 104
    assert average_precision(open_session(smooth), card, dataset) > float_ap - 0.01
    pytest.importorskip("openvino")
    tensors = measured_tensors(model, quantisable_nodes(model, Form.OPENVINO))
    quantiser = Quantiser(
        *(model, measure(model, tensors, source), probe(model, source), Form.OPENVINO),
        lambda step: None,
        Runtime.OPENVINO,
    )
    every = quantiser.candidate(Method.MSE, STEM, polynomial_silu=True)
    gains_ms = layer_gains_ms(quantiser._floats(True), every, quantiser.layers, quantiser.probe.images)
    assert list(gains_ms) == list(quantiser.layers), "OpenVINO's counters name every layer"
    half = tuple(sorted(gains_ms, key=gains_ms.__getitem__)[: len(gains_ms) // 2])
    mixed = quantiser.candidate(Method.MSE, tuple({*STEM, *half}), polynomial_silu=True)
    assert average_precision(mixed.open(), card, dataset) > float_ap - 0.015
