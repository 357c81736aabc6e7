"""Published SSDs: named from the graph alone, and raw heads decode to what the decoded file gives."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from typer.testing import CliRunner

from detserve_builder.build import probe_pictures
from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.commands.inspect import app
from detserve_builder.infer_card import infer_card
from detserve_builder.preparation.prepare import prepare
from tests.shared_data import SHARED, SINGLE, needs_shared
from tests.ssd_checkpoints import FACE_PRIORS, SSD, save_ssd_checkpoints

pytestmark = needs_shared
RAW_RFB = SSD / "ultraface-RFB-320_raw-loc.onnx"
RAW_SLIM = SHARED / "models/todays/trained/ultraface-slim-320_raw.onnx"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    return save_ssd_checkpoints(tmp_path_factory.mktemp("ssd"))


@pytest.mark.parametrize("name", ["ssd_mobilenet", "ssd_mobilenet_raw", "ultraface"])
def test_inspect_needs_the_graph_alone(checkpoints, name, tmp_path) -> None:
    written = tmp_path / "card.json"
    path = str(checkpoints[name][0])
    result = CliRunner().invoke(app, [path, "--output", str(written)])
    assert result.exit_code == 0, result.output
    card = infer_card(load_checkpoint(path), said=written)
    assert card.family == "ssd"
    assert card.head["coding"] == ("center_size" if name.endswith("raw") else "decoded")
    assert len(card.labels) == (1 if name == "ultraface" else 80)


def test_inspect_names_the_family_where_priors_are_missing(checkpoints, tmp_path) -> None:
    model = onnx.load(checkpoints["ssd_mobilenet_raw"][0])
    anchors = [tensor for tensor in model.graph.initializer if tensor.name.startswith("anchors_")]
    for tensor in anchors:
        model.graph.initializer.remove(tensor)
    onnx.save(model, tmp_path / "without.onnx")
    result = CliRunner().invoke(app, [str(tmp_path / "without.onnx")])
    assert "│ family │ ssd " in result.stdout
    assert "needs prior_grid or prior_tensors" in str(result.exception)


@pytest.mark.parametrize("path", [RAW_RFB, RAW_SLIM], ids=lambda path: path.stem)
def test_ultraface_brings_its_priors(path) -> None:
    card = infer_card(load_checkpoint(str(path)))
    assert card.labels == ["face"]
    assert (card.preprocess.mean, card.preprocess.std) == ((127,) * 3, (128,) * 3)
    assert card.head["prior_grid"] == FACE_PRIORS


@pytest.mark.parametrize("name", ["ssd_mobilenet", "ultraface"])
def test_raw_equals_decoded(checkpoints, name) -> None:
    found = []
    for checkpoint_path, card_path in (checkpoints[name], checkpoints[f"{name}_raw"]):
        checkpoint = load_checkpoint(str(checkpoint_path))
        card = infer_card(checkpoint, said=card_path)
        card = card.model_copy(update={"candidates": card.head["num_anchors"]})
        prepared = prepare(checkpoint, card, probe_pictures(card))
        assert prepared.batch_obstacle is None
        session = ort.InferenceSession(prepared.model.SerializeToString())
        picture = cv2.resize(cv2.imread(str(SINGLE / "bus.jpg"))[..., ::-1], card.input_wh)
        boxes, scores, classes = session.run(["boxes", "scores", "classes"], {"images": picture[None]})
        found.append((boxes / np.tile(card.input_wh, 2), scores, classes))
    for decoded, raw in zip(*found, strict=True):
        np.testing.assert_allclose(raw, decoded, atol=1e-4)
