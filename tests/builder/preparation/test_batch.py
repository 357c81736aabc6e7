"""A fixed batch is freed, or the node in the way is named."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from detserve_builder.checkpoint import load_checkpoint
from detserve_builder.infer_card import infer_card
from detserve_builder.preparation.batch import NotBatchable, check_batch
from detserve_builder.preparation.prepare import prepare
from tests.builder.tiny_networks import pictures, save_linear_network
from tests.shared_data import FASTESTDET, YOLOX, needs_shared

HEAD = {"output": [84, 8]}


def prepared(path, probe=None):
    checkpoint = load_checkpoint(str(path))
    return prepare(checkpoint, infer_card(checkpoint), pictures(2) if probe is None else probe)


@pytest.mark.parametrize(
    ("batch", "middle"), [(1, ""), ("batch", ""), (1, "mean"), (1, "squeeze"), ("batch", "mean")]
)
def test_any_batch(tmp_path, batch, middle) -> None:
    assert_batches(prepared(save_linear_network(tmp_path / "net.onnx", HEAD, batch=batch, middle=middle)))


def assert_batches(result) -> None:
    """Five pictures together give what they give one by one; :func:`prepare` compared these with the file."""
    assert result.batch_obstacle is None
    session = ort.InferenceSession(result.model.SerializeToString())
    images = pictures(5)
    together = session.run(None, {"images": images})
    for index in range(5):
        alone = session.run(None, {"images": images[index : index + 1]})
        for both, single in zip(together, alone, strict=True):
            np.testing.assert_allclose(both[index], single[0], rtol=1e-5)


def test_the_node_in_the_way_is_named_and_batch_1_still_works(tmp_path) -> None:
    result = prepared(save_linear_network(tmp_path / "net.onnx", HEAD, middle="norm"))
    assert result.batch_obstacle is not None
    assert "norm_of_batch" in result.batch_obstacle
    session = ort.InferenceSession(result.model.SerializeToString())
    assert session.get_inputs()[0].shape[0] == 1
    assert session.run(None, {"images": pictures(1)})[0].shape == (1, 84, 4)


def test_rounding_among_equal_scores_is_no_obstacle() -> None:
    check_batch(tied_detector(noise=1e-5), pictures(2))
    with pytest.raises(NotBatchable, match="mixes the pictures of a batch: ReduceMean 'of_batch'"):
        check_batch(tied_detector(noise=1), pictures(2))


def test_classes_of_equal_scores_are_no_obstacle() -> None:
    """Which of two saturated classes is the best is rounding; their scores before that show no mixing."""
    check_batch(torn_detector(noise=1e-5), pictures(2), candidates=("all_boxes", "all_scores"))
    with pytest.raises(NotBatchable, match="mixes the pictures of a batch: ReduceMean 'of_batch'"):
        check_batch(torn_detector(noise=1e-5), pictures(2))
    with pytest.raises(NotBatchable, match="mixes the pictures of a batch: ReduceMean 'of_batch'"):
        check_batch(torn_detector(noise=1), pictures(2), candidates=("all_boxes", "all_scores"))


def torn_detector(noise: float) -> onnx.ModelProto:
    """Two boxes; the classes of one score alike but for ``noise`` times what a batch's pictures differ by."""
    weights = {
        "scale": (noise * np.array([[[-1, 1], [0, 0]]])).astype(np.float32),
        "half": np.float32([[[0.5, 0.5], [0.1, 0.1]]]),
        "corners": np.float32([[[1, 1, 9, 9], [2, 2, 8, 8]]]),
        "axis": np.array([1]),
    }
    steps = [
        ("Cast", ["images"], ["pixels"], {"to": TensorProto.FLOAT}),
        ("ReduceMean", ["pixels"], ["of_picture_4d"], {"axes": [1, 2, 3], "keepdims": 1}),
        ("Flatten", ["of_picture_4d"], ["of_picture_2d"], {}),
        ("Unsqueeze", ["of_picture_2d", "axis"], ["of_picture"], {}),
        ("ReduceMean", ["of_picture"], ["of_batch"], {"axes": [0], "keepdims": 1}),
        ("Sub", ["of_picture", "of_batch"], ["difference"], {}),
        ("Mul", ["difference", "scale"], ["noise"], {}),
        ("Add", ["noise", "half"], ["all_scores"], {}),
        ("ReduceMax", ["all_scores"], ["scores"], {"axes": [2], "keepdims": 0}),
        ("ArgMax", ["all_scores"], ["classes"], {"axis": 2, "keepdims": 0}),
        ("Sub", ["of_picture", "of_picture"], ["nothing"], {}),
        ("Add", ["nothing", "corners"], ["all_boxes"], {}),
        ("Identity", ["all_boxes"], ["boxes"], {}),
    ]
    return small_detector(steps, weights, classes=TensorProto.INT64)


def tied_detector(noise: float) -> onnx.ModelProto:
    """Three boxes of equal scores, but for ``noise`` times what a batch's pictures differ by."""
    scale = (noise * np.array([[-1, 0, 1]])).astype(np.float32)
    boxes = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    weights = {
        "scale": scale,
        "half": np.full((1, 3), 0.5, np.float32),
        "all": boxes,
        "k": np.array([3]),
        "zero": np.array([0]),
    }
    steps = [
        ("Cast", ["images"], ["pixels"], {"to": TensorProto.FLOAT}),
        ("ReduceMean", ["pixels"], ["of_picture_4d"], {"axes": [1, 2, 3], "keepdims": 1}),
        ("Flatten", ["of_picture_4d"], ["of_picture"], {}),
        ("ReduceMean", ["of_picture"], ["of_batch"], {"axes": [0], "keepdims": 1}),
        ("Sub", ["of_picture", "of_batch"], ["difference"], {}),
        ("Mul", ["difference", "scale"], ["noise"], {}),
        ("Add", ["noise", "half"], ["unsorted"], {}),
        ("TopK", ["unsorted", "k"], ["scores", "order"], {"axis": 1}),
        ("Cast", ["order"], ["classes"], {"to": TensorProto.INT32}),
        ("Gather", ["all", "order"], ["gathered"], {"axis": 1}),
        ("Squeeze", ["gathered", "zero"], ["boxes"], {}),
    ]
    return small_detector(steps, weights, classes=TensorProto.INT32)


def small_detector(steps, weights, *, classes: int) -> onnx.ModelProto:
    types = {"scores": TensorProto.FLOAT, "classes": classes, "boxes": TensorProto.FLOAT}
    graph = helper.make_graph(
        [helper.make_node(op, given, made, **attrs) for op, given, made, attrs in steps],
        "tied",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 64, 64, 3])],
        [helper.make_tensor_value_info(name, dtype, None) for name, dtype in types.items()],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@needs_shared
@pytest.mark.parametrize(("path", "side_px"), [(YOLOX, 416), (FASTESTDET, 352)], ids=["yolox", "fastestdet"])
def test_a_real_detector_fixed_at_batch_1_becomes_batchable(path, side_px) -> None:
    """FastestDet's channel shuffles fold the batch into the channels: Reshape to [24,2,1936]."""
    probe = np.random.default_rng(0).integers(0, 256, (2, side_px, side_px, 3), np.uint8)
    assert prepared(path, probe).batch_obstacle is None
