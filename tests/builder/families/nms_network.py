"""A network small enough to write down that ends like torchvision's: NonMaxSuppression, gathers, D rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.builder.tiny_networks import SIDE_PX

NUM_BOXES = 12
NUM_COLUMNS = 4  # the background and three classes
IOU_THRESHOLD = 0.5


def save_nms_network(
    path: Path,
    *,
    score_threshold: float,
    most_rows: int = 8,
    seed: int = 0,
    batch_dimension: bool = False,
    size: list[int | str] | None = None,
) -> Path:
    """Write [3,64,64] (or [1,3,64,64]) -> boxes [D,4], labels [D], scores [D], with random weights.

    ``path`` with the suffix .raw.onnx is the same network before NMS: raw_boxes [12,4], raw_scores [12,4].
    """
    front, weights = _random_linear(seed, batch_dimension)
    shape: list[int | str] = [*([1] if batch_dimension else []), 3, *(size or [SIDE_PX, SIDE_PX])]
    raw = [
        ("raw_boxes", TensorProto.FLOAT, [NUM_BOXES, 4]),
        ("raw_scores", TensorProto.FLOAT, [NUM_BOXES, 4]),
    ]
    found = [
        ("boxes", TensorProto.FLOAT, ["D", 4]),
        ("labels", TensorProto.INT64, ["D"]),
        ("scores", TensorProto.FLOAT, ["D"]),
    ]
    weights["score_threshold"] = np.array([score_threshold], np.float32)
    weights["most_rows"] = np.array([most_rows])
    for file, nodes, outputs in (
        (path.with_suffix(".raw.onnx"), front, raw),
        (path, [*front, *_suppression()], found),
    ):
        graph = helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(*output) for output in outputs],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, file)
    return path


def _random_linear(seed: int, batch_dimension: bool) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Picture -> boxes that overlap and scores, as random linear functions of its means."""
    rng = np.random.default_rng(seed)
    node = helper.make_node
    size = rng.uniform(20, 40, (NUM_BOXES, 2))
    low = rng.uniform(0, SIDE_PX - 40, (NUM_BOXES, 2))
    weights = {
        "axis_0": np.array([0]), "axis_1": np.array([1]), "batch_axes": np.array([0]),
        "flat_shape": np.array([1, 48]), "box_shape": np.array([NUM_BOXES, 4]),
        "means_size": np.array([1, 3, 4, 4]),
        "box_weight": rng.normal(0, 1, (48, NUM_BOXES * 4)).astype(np.float32),
        "box_bias": np.concatenate([low, low + size], 1).reshape(1, -1).astype(np.float32),
        "score_weight": rng.normal(0, 2, (48, NUM_BOXES * 4)).astype(np.float32),
        "no_roi": np.array([], np.float32), "no_scales": np.array([], np.float32),
    }  # fmt: skip
    first = [node("Identity", ["image"], ["batched"])]
    if not batch_dimension:
        first = [node("Unsqueeze", ["image", "batch_axes"], ["batched"])]
    return [
        *first,
        node("Resize", ["batched", "no_roi", "no_scales", "means_size"], ["means"], mode="linear"),
        node("Reshape", ["means", "flat_shape"], ["flat"]),
        node("MatMul", ["flat", "box_weight"], ["box_change"]),
        node("Add", ["box_change", "box_bias"], ["box_flat"]),
        node("Reshape", ["box_flat", "box_shape"], ["raw_boxes"]),
        node("MatMul", ["flat", "score_weight"], ["score_flat"]),
        node("Reshape", ["score_flat", "box_shape"], ["logits"]),
        node("Softmax", ["logits"], ["raw_scores"], axis=-1),
    ], weights


def _suppression() -> list[onnx.NodeProto]:
    """Class-wise NMS without the background column, best first, at most ``most_rows`` rows."""
    node = helper.make_node

    def constant(name: str, value: object) -> onnx.NodeProto:
        return node("Constant", [], [name], value=numpy_helper.from_array(np.array(value)))

    return [
        constant("first_class", [1]), constant("last_class", [NUM_COLUMNS]), constant("most_per_class", [99]),
        constant("iou_threshold", np.array([IOU_THRESHOLD], np.float32)),
        constant("class_and_box", [1, 2]), constant("box_only", [2]), constant("end", [3]),
        constant("start", [0]), constant("step", [1]), constant("one", 1), constant("column", [-1]),
        node("Slice", ["raw_scores", "first_class", "last_class", "axis_1"], ["class_scores"]),
        node("Transpose", ["class_scores"], ["by_class"], perm=[1, 0]),
        node("Unsqueeze", ["by_class", "axis_0"], ["nms_scores"]),
        node("Unsqueeze", ["raw_boxes", "axis_0"], ["nms_boxes"]),
        node(
            "NonMaxSuppression",
            ["nms_boxes", "nms_scores", "most_per_class", "iou_threshold", "score_threshold"],
            ["kept"],
            "suppress",
        ),
        node("Slice", ["kept", "first_class", "end", "axis_1"], ["pairs"]),
        node("GatherND", ["by_class", "pairs"], ["kept_scores"]),
        node("Shape", ["kept_scores"], ["kept_count"]),
        node("TopK", ["kept_scores", "kept_count"], ["sorted_scores", "order"], axis=0),
        node("Slice", ["order", "start", "most_rows", "start", "step"], ["best"]),
        node("Gather", ["pairs", "best"], ["best_pairs"], axis=0),
        node("Split", ["best_pairs"], ["class_column", "box_column"], axis=1),
        node("Squeeze", ["class_column", "axis_1"], ["class_index"]),
        node("Squeeze", ["box_column", "axis_1"], ["box_index"]),
        node("Gather", ["kept_scores", "best"], ["scores"], axis=0),
        node("Gather", ["raw_boxes", "box_index"], ["boxes"], axis=0),
        node("Add", ["class_index", "one"], ["labels"]),
    ]  # fmt: skip
