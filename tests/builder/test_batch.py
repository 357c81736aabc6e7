"""A fixed batch is freed, or the node in the way is named."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.infer_card import infer_card
from detserve_builder.prepare import prepare
from tests.builder.tiny_networks import pictures, save_linear_network
from tests.shared_data import FASTESTDET, YOLOX, needs_shared

HEAD = {"output": [84, 8]}


def prepared(path, probe=None):
    checkpoint = load_checkpoint(str(path))
    return prepare(checkpoint, infer_card(checkpoint), pictures(2) if probe is None else probe)


@pytest.mark.parametrize("batch", [1, "batch"])
def test_any_batch(tmp_path, batch) -> None:
    result = prepared(save_linear_network(tmp_path / "net.onnx", HEAD, batch=batch))
    assert result.batch_obstacle is None
    session = ort.InferenceSession(result.model.SerializeToString())
    images = pictures(5)
    together = session.run(None, {"images": images})
    for index in range(5):
        alone = session.run(None, {"images": images[index : index + 1]})
        for both, single in zip(together, alone, strict=True):
            np.testing.assert_allclose(both[index], single[0], rtol=1e-5)


@pytest.mark.parametrize(("middle", "node"), [("mean", "mean_of_batch"), ("squeeze", "drop_batch")])
def test_the_node_in_the_way_is_named_and_batch_1_still_works(tmp_path, middle, node) -> None:
    result = prepared(save_linear_network(tmp_path / "net.onnx", HEAD, middle=middle))
    assert result.batch_obstacle is not None
    assert node in result.batch_obstacle
    session = ort.InferenceSession(result.model.SerializeToString())
    assert session.get_inputs()[0].shape[0] == 1
    assert session.run(None, {"images": pictures(1)})[0].shape == (1, 84, 4)


@needs_shared
@pytest.mark.parametrize(("path", "side_px"), [(YOLOX, 416), (FASTESTDET, 352)], ids=["yolox", "fastestdet"])
def test_a_real_detector_fixed_at_batch_1_becomes_batchable(path, side_px) -> None:
    """FastestDet's channel shuffles fold the batch into the channels: Reshape to [24,2,1936]."""
    probe = np.random.default_rng(0).integers(0, 256, (2, side_px, side_px, 3), np.uint8)
    assert prepared(path, probe).batch_obstacle is None
