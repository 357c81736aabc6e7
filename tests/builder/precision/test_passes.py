"""From ``detserve build`` to a measured model, or to the refusal."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from detserve_builder.build import build, probe_pictures
from detserve_builder.checkpoint.opset import NEWEST_OPSET
from detserve_builder.commands.build import app
from detserve_builder.errors import BuildError
from detserve_builder.graph.network import Layers, Unfit
from detserve_builder.graph.plain import plain
from detserve_builder.graph.session import open_session
from detserve_builder.precision.candidate_accuracy import (
    agreement_dataset,
    average_precision,
    labelled_dataset,
)
from detserve_builder.precision.gate import Candidate, Gate, Measured
from detserve_builder.precision.request import Precision, PrecisionRequest
from detserve_builder.precision.sensitivity import probe
from detserve_builder.precision.workshop import Place, Workshop
from detserve_builder.quantise.calibration import calibration_folder
from detserve_builder.runtime import Runtime
from detserve_builder.steps.detserve_detector import OUTPUTS
from detserve_builder.steps.detserve_detector import open_session as open_served_step
from detserve_core.datasets.errors import DatasetError
from detserve_core.machine.cpu import cpu_kind, cpuinfo
from tests.builder.precision.networks import (
    prepared,
    save_convolutional_network,
    save_one_layer,
    write_pictures,
)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return save_convolutional_network(tmp_path_factory.mktemp("network") / "net.onnx")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"), 6)


def instances(label: str, *, crowd: int = 0, file: str = "00.png") -> str:
    box = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": crowd}
    images, categories = [{"id": 1, "file_name": file}], [{"id": 1, "name": label}]
    return json.dumps({"images": images, "annotations": [box], "categories": categories})


def detector(repository) -> bytes:
    return (repository / "tiny_pipeline/1/model.onnx").read_bytes()


def manifest(repository) -> dict:
    return json.loads((repository / "tiny/detserve.json").read_text())


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.INT8, Precision.INT16])
def test_the_same_calibration_gives_the_same_bytes(
    tmp_path, network, pictures, precision, monkeypatch
) -> None:
    request = PrecisionRequest(precision, calibrate=pictures)
    for name in ("measured", "from_cache", "measured_again"):
        if name == "measured_again":
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other_cache"))
        build(str(network), name="tiny", repository=tmp_path / name, request=request)
    one, two, three = (detector(tmp_path / name) for name in ("measured", "from_cache", "measured_again"))
    assert one == two == three
    found = manifest(tmp_path / "measured")
    assert found["precision"] == precision.value
    assert found["measured"]["precision"]["calibration"]["pictures"] == 6
    assert found["sha256"]["tiny_pipeline/1/model.onnx"] == hashlib.sha256(one).hexdigest()


@pytest.mark.parametrize("opset", [11, 18, 22, NEWEST_OPSET])
@pytest.mark.parametrize(
    "asked",
    [
        *({"precision": precision} for precision in (Precision.FP16, Precision.INT8, Precision.INT16)),
        {"precision": Precision.INT8, "runtime": Runtime.OPENVINO},
        *({"prune": how} for how in ("2:4", "0.3", "channels:0.1")),
    ],
    ids=lambda asked: "-".join(str(getattr(value, "value", value)) for value in asked.values()),
)
def test_every_pass_at_every_opset(tmp_path, pictures, opset, asked) -> None:
    path = save_convolutional_network(tmp_path / "net.onnx", opset=opset)
    request = PrecisionRequest(**asked, calibrate=pictures)
    built = build(str(path), name="tiny", repository=tmp_path / "r", request=request)
    settings = built.outcome.built.settings
    assert settings["layers"] == 9
    assert settings["layers_changed"] >= 3
    (note,) = [note for note in built.outcome.notes if "layers with weights changed" in note]
    assert f"{settings['layers_changed']} of 9 layers" in note
    record = manifest(tmp_path / "r")["measured"]["precision"]["built"]
    assert (record["layers_changed"], record["layers"]) == (settings["layers_changed"], 9)
    model, card = prepared(tmp_path / "float.onnx", opset=opset)
    harm = probe(model, calibration_folder(pictures, card)).harm(built.outcome.built.model)
    assert harm < (1 if "prune" in asked else 0.1)


def test_a_pass_that_changes_nothing_is_refused(tmp_path) -> None:
    """Of one layer, which boxes and scores are read off, int8 makes nothing."""
    path = save_one_layer(tmp_path / "net.onnx")
    pictures = write_pictures(tmp_path / "pictures", 6)
    for precision in (Precision.INT8, Precision.INT16):
        request = PrecisionRequest(precision, calibrate=pictures)
        with pytest.raises(BuildError, match=r"none of the network's 1 layers with weights .* stay in float"):
            build(str(path), name="tiny", repository=tmp_path / "r", request=request)
    with pytest.raises(BuildError, match="no channel of this network can go"):
        request = PrecisionRequest(prune="channels:0.1", calibrate=pictures)
        build(str(path), name="tiny", repository=tmp_path / "r", request=request)
    assert not (tmp_path / "r").exists()


def test_a_pass_that_changes_a_small_part_is_refused() -> None:
    every = tuple(f"layer{index}" for index in range(113))
    layers = Layers(every, every, (), "")
    assert layers.changed("int8", every[:29], "why") == {"layers_changed": 29, "layers": 113}
    with pytest.raises(
        Unfit, match=r"int8: only 28 of the network's 113 layers .* expected 25% or more \(why\)"
    ):
        layers.changed("int8", every[:28], "why")


def test_a_free_choice_by_agreement_shows_every_candidate(tmp_path, network, pictures) -> None:
    request = PrecisionRequest(prune="0.3", calibrate=pictures, images=pictures, max_ap_drop=0.3)
    built = build(str(network), name="tiny", repository=tmp_path / "r", request=request)
    outcome = built.outcome
    labels = [measured.candidate.label for measured in outcome.tried]
    smooth = "openvino, polynomial silu"
    assert labels[:4] == ["fp32", "pruned 0.3", "fp32, openvino", f"fp32, {smooth}"]
    assert labels[4:8] == ["bf16, openvino", f"bf16, {smooth}", "fp16", "int16 activations"]
    assert any(label.startswith("int8") and "openvino" in label for label in labels)
    assert "int8 plain quantize_static" in labels
    methods = ("int8 mse", "int8 entropy", "int8 percentile", "int8 min-max")
    assert any(label.startswith(methods) for label in labels)
    assert outcome.figure == "agreement with fp32"
    assert outcome.tried[0].ap == pytest.approx(1)
    assert outcome.refusal is None
    record = manifest(tmp_path / "r")["measured"]["precision"]
    assert record["figure"] == "agreement with fp32"
    assert record["machine"]["cpu_kind"] == cpu_kind(cpuinfo())
    assert any(f"on a CPU with {cpu_kind(cpuinfo())} " in note for note in outcome.notes)
    assert [row["label"] for row in record["candidates"]] == labels
    assert (tmp_path / "r/tiny/precision.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "r/tiny/precision.html").read_bytes()
    assert b"Measured on a CPU with" in (tmp_path / "r/tiny/precision.html").read_bytes()
    assert "tiny/precision.html" in manifest(tmp_path / "r")["sha256"]


def test_fp16_that_the_gate_refuses_is_tried_with_more_in_fp32(tmp_path, pictures) -> None:
    """As if each node in fp16 cost a hundredth of AP, and the gate let pass four fewer than all."""
    model, card = prepared(tmp_path / "net.onnx")
    source = calibration_folder(pictures, card)
    place, images = Place((Runtime.ONNXRUNTIME,)), probe_pictures(card)
    works = Workshop(plain(model), card, place, source, lambda step: None, images)
    all_nodes = len(works.halved[0])
    gate = Gate(max_ap_drop=0.01 * (all_nodes - 4), min_speedup=0)

    def measure(candidate: Candidate) -> Measured:
        drop = 0.01 * (all_nodes - sum(why == "gate" for why in candidate.settings["fp32_nodes"].values()))
        return Measured(candidate, 1 - drop, drop, latency_ms=1, speedup=1)

    halves = works.halves(gate, measure)
    in_fp32 = [len(one.candidate.settings["fp32_nodes"]) for one in halves]
    assert in_fp32 == sorted(set(in_fp32))
    assert [gate.accurate(one) for one in halves] == [False] * (len(halves) - 1) + [True]
    assert len(halves) > 2
    assert len(works.halves(Gate(max_ap_drop=1, min_speedup=0), measure)) == 1


def test_a_demand_that_nothing_meets_builds_fp32_and_exits_1(tmp_path, network, pictures) -> None:
    build(str(network), name="tiny", repository=tmp_path / "plain")
    options = ["--precision", "int8", "--calibrate", str(pictures), "--images", str(pictures)]
    arguments = [str(network), "--name", "tiny", "--repository", str(tmp_path / "gated"), *options]
    outcome = CliRunner().invoke(app, [*arguments, "--min-speedup", "1000"])
    assert isinstance(outcome.exception, BuildError)
    assert str(outcome.exception) == (
        "no int8 candidate has agreement with fp32 drop at most 0.01 and speed-up at least 1000; "
        "fp32 was built instead"
    )
    assert detector(tmp_path / "gated") == detector(tmp_path / "plain")
    assert manifest(tmp_path / "gated")["precision"] == "fp32"


def test_an_interrupted_build_leaves_no_model(tmp_path, network, pictures) -> None:
    def interrupt(step: str) -> None:
        if step.startswith("measuring ranges on pictures: 9"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(
            str(network),
            name="tiny",
            repository=tmp_path / "r",
            request=PrecisionRequest(Precision.INT8, calibrate=pictures),
            on_step=interrupt,
        )
    assert not (tmp_path / "r").exists()


def test_ap_of_boxes_that_are_the_truth(tmp_path, pictures) -> None:
    model, card = prepared(tmp_path / "net.onnx")
    floats = open_session(model)
    agreement = agreement_dataset(pictures, floats, card)
    assert average_precision(floats, card, agreement) == pytest.approx(1)
    images, annotations = [], []
    for number, picture in enumerate(agreement.dataset.read()):
        images.append({"id": number, "file_name": picture.path.name})
        for box, index in zip(picture.boxes_xywh.tolist(), picture.classes.tolist(), strict=True):
            annotations.append({"image_id": number, "category_id": index, "bbox": box})
    categories = [{"id": index, "name": label} for index, label in enumerate(card.labels)]
    labels = tmp_path / "instances.json"
    labels.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    # there an empty box counts as a false detection
    assert average_precision(floats, card, labelled_dataset(labels, pictures, card)) > 0.95


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "is not JSON"),
        ('{"images": [{"id": 1}]}', r"images\[0\] has no 'file_name'"),
        (instances("unicorn"), "none of the card's labels"),
        (instances("class_0", crowd=1), "no box of a class that the card knows"),
        (instances("class_0", file="gone.jpg"), r"1 of 1 annotated pictures are not in .*gone\.jpg for one"),
    ],
)
def test_annotations_that_are_none_are_refused(tmp_path, pictures, content, sentence) -> None:
    model, card = prepared(tmp_path / "net.onnx")
    (tmp_path / "instances.json").write_text(content)
    with pytest.raises((BuildError, DatasetError), match=sentence):
        average_precision(
            open_session(model), card, labelled_dataset(tmp_path / "instances.json", pictures, card)
        )


def test_the_model_that_is_served_is_quantised(tmp_path, network, pictures) -> None:
    request = PrecisionRequest(Precision.INT8, calibrate=pictures)
    build(str(network), name="tiny", repository=tmp_path / "r", request=request)
    operators = {node.op_type for node in onnx.load(tmp_path / "r/tiny_pipeline/1/model.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators


@pytest.mark.parametrize("runtime", list(Runtime))
def test_a_build_says_what_its_detector_runs_on(tmp_path, network, runtime) -> None:
    build(str(network), name="tiny", repository=tmp_path / "r", request=PrecisionRequest(runtime=runtime))
    assert manifest(tmp_path / "r")["runtime"] == runtime.value
    assert f'"{runtime.value}"' in (tmp_path / "r/tiny_pipeline/config.pbtxt").read_text()


def test_both_runtimes_give_the_same_whatever_the_batch(tmp_path) -> None:
    model, card = prepared(tmp_path / "net.onnx")
    onnx.save(model, tmp_path / "m.onnx")
    width, height = card.input_wh
    images = np.random.default_rng(0).integers(0, 255, (3, height, width, 3), np.uint8)
    one, other = (
        open_served_step(str(tmp_path / "m.onnx"), 1, runtime=runtime.value).run(OUTPUTS, {"images": images})
        for runtime in Runtime
    )
    assert [array.dtype for array in one] == [array.dtype for array in other]
    np.testing.assert_allclose(one[1], other[1], atol=1e-4)
    np.testing.assert_allclose(one[0], other[0], atol=0.05)
