"""Boxes that are decoded and scores that are activated, as two outputs, before any suppression.

YOLO-NAS (Deci, SuperGradients): boxes [N,A,4] x1, y1, x2, y2 in network pixels and sigmoid scores [N,A,C], no
background. PP-YOLOE (Xu et al. 2022, arXiv:2203.16250) exported without NMS: the same with scores [N,C,A].
And what a suppression plugin at the end of a graph was given, which says itself what boxes and scores are;
there boxes may be [N,A,1,4], or [N,A,C,4], one of each class.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from detserve_builder.checkpoint import Checkpoint, TensorInfo
from detserve_builder.checkpoint.nms_plugins import NmsPlugin, plugin_of
from detserve_builder.errors import BuildError
from detserve_builder.families.family import Candidates, Draft, Family
from detserve_builder.families.reading import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    expect_anchors,
    expect_classes,
    image_wh,
    in_pixels,
    last_op,
    num_cells,
    ops,
    probe,
)
from detserve_builder.graph.layers import corners, float32, int64, layer, slice_last
from detserve_core.card import Card
from detserve_core.errors import CardError

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

_YOLO_NAS = {"resize": "letterbox_center", "color": "rgb", "scale": 1 / 255}
_PADDLE = {"resize": "stretch", "color": "rgb", "mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}
_IN_ORDER = 0.9  # of the boxes of a picture
_OUT_OF_ORDER = 0.15  # centre and size pass as corners for the few boxes in the first corner alone
_STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (8, 16), (16, 32), (8,), (16,), (32,))


class Head(BaseModel):
    """What the two outputs hold.

    ``boxes`` and ``scores`` name them. ``classes_first`` says that scores are [N,C,A]. ``background`` is the
    score column of no class.
    """

    model_config = ConfigDict(extra="forbid")
    anchors: Annotated[int, Field(gt=0)]
    boxes: str
    scores: str
    classes_first: bool = False
    coding: Literal["xyxy", "cxcywh", "yxyx"] = "xyxy"
    units: Literal["pixels", "normalised"] = "pixels"
    activation: Literal["none", "sigmoid"] = "none"
    background: Annotated[int, Field(ge=0)] | None = None


def _num_anchors(card: Card) -> int:
    return Head.model_validate(card.head).anchors


def _recognise(checkpoint: Checkpoint) -> Draft | None:
    wh = image_wh(checkpoint)
    if wh is None or len(checkpoint.inputs) != 1:
        return None
    plugin = plugin_of(checkpoint.metadata)
    if plugin is not None:
        return _recognise_plugin(checkpoint, wh, plugin)
    found = decoded_pair(checkpoint, wh)
    if found is None:
        return None
    boxes, scores, classes_first = found
    anchors, classes = boxes.shape[1], scores.shape[1 if classes_first else 2]
    fields, guesses = _seen(checkpoint, boxes)
    head = {
        "boxes": boxes.name,
        "scores": scores.name,
        "classes_first": classes_first,
        "anchors": anchors,
        **fields,
    }
    # PP-YOLOE's activation is swish, YOLO-NAS's ReLU.
    paddle = bool({"scale_factor", "im_shape"} & set(checkpoint.fed)) or "Relu" not in ops(checkpoint)
    return Draft(
        card_fields={"input_wh": list(wh), "preprocess": _PADDLE if paddle else _YOLO_NAS, "head": head},
        num_classes=classes if isinstance(classes, int) else None,
        guesses=guesses,
    )


def decoded_pair(checkpoint: Checkpoint, wh: tuple[int, int]) -> tuple[TensorInfo, TensorInfo, bool] | None:
    """Boxes [N,A,4] and activated scores, and whether these are [N,C,A]; one anchor a cell of the maps."""
    rows = [o for o in checkpoint.outputs if len(o.shape) == 3 and o.dtype == "FLOAT"]
    if len(rows) != 2 or "GridSample" in ops(checkpoint):
        return None
    both = all(output.shape[2] == 4 for output in rows)
    cells = {num_cells(wh, strides) for strides in _STRIDES}
    for boxes, scores in (rows, rows[::-1]):
        anchors = boxes.shape[1]
        if boxes.shape[2] != 4 or anchors not in cells or last_op(checkpoint, scores) != "Sigmoid":
            continue
        if both and not re.search("score|cls|class", scores.name):
            continue  # a transformer's boxes are a sigmoid's too
        if last_op(checkpoint, boxes) == "Sigmoid" or anchors not in scores.shape[1:]:
            continue
        return boxes, scores, scores.shape[1] != anchors
    return None


def _seen(checkpoint: Checkpoint, boxes: TensorInfo) -> tuple[dict[str, str], dict[str, str]]:
    """What the boxes of real pictures show: shares stay small, corners are in order."""
    found = [outputs[boxes.name].reshape(-1, 4) for outputs in probe(checkpoint)]
    rows: NDArray[Any] = np.concatenate(found or [np.zeros((1, 4))])
    in_order = (rows[:, 2:] >= rows[:, :2]).all(axis=1).mean()
    fields = {
        "coding": "xyxy" if in_order > _OUT_OF_ORDER else "cxcywh",
        "units": "pixels" if in_pixels(found) else "normalised",
    }
    return fields, {} if in_order > _IN_ORDER else _else(fields)


def _else(fields: Mapping[str, str]) -> dict[str, str]:
    """What boxes could be that are not plain to see."""
    return {
        "head.coding": "cxcywh" if fields["coding"] == "xyxy" else "xyxy",
        "head.units": "pixels" if fields["units"] == "normalised" else "normalised",
    }


def _recognise_plugin(checkpoint: Checkpoint, wh: tuple[int, int], plugin: NmsPlugin) -> Draft | None:
    by_name = {output.name: output for output in checkpoint.outputs}
    boxes, scores = by_name[plugin.boxes], by_name[plugin.scores]
    if len(scores.shape) != 3 or len(boxes.shape) not in (3, 4) or boxes.shape[:2] != scores.shape[:2]:
        raise BuildError(
            f"{checkpoint.path}: the plugin {plugin.operator} is given {boxes} and {scores}, expected "
            "boxes [N,A,4] or [N,A,1,4] and scores [N,A,C]; export without the option that adds it"
        )
    columns, anchors = scores.shape[2], scores.shape[1]
    fields, guesses = _seen(checkpoint, boxes)
    if plugin.normalised is not None:
        fields["units"] = "normalised" if plugin.normalised else "pixels"
        guesses.pop("head.units", None)
    fields["coding"] = "cxcywh" if plugin.center_size else "xyxy"
    guesses.pop("head.coding", None)
    if not plugin.center_size:
        guesses["head.coding"] = "yxyx, which the plugin does not tell from xyxy"
    head: dict[str, Any] = {
        "boxes": boxes.name,
        "scores": scores.name,
        "activation": "sigmoid" if plugin.sigmoid else "none",
        **fields,
    }
    if isinstance(anchors, int):
        head["anchors"] = anchors
    num_classes = columns if isinstance(columns, int) else None
    if plugin.background >= 0 and num_classes is not None:
        head["background"], num_classes = plugin.background, num_classes - 1
    if plugin.class_agnostic:
        guesses["thresholds.iou"] = (
            f"{plugin.operator} suppressed across classes, here each class is suppressed alone"
        )
    return Draft(
        card_fields={
            "input_wh": list(wh),
            "preprocess": {"resize": "letterbox_center", "color": "rgb", "scale": 1 / 255},
            "head": head,
            "thresholds": _thresholds(plugin),
        },
        num_classes=num_classes,
        guesses=guesses,
    )


def _thresholds(plugin: NmsPlugin) -> dict[str, float]:
    """The plugin's own, where they are ones that a card can have."""
    found: dict[str, float] = {}
    if plugin.score_threshold is not None and 0 <= plugin.score_threshold <= 1:
        found["score"] = round(plugin.score_threshold, 6)
    if plugin.iou_threshold is not None and 0 < plugin.iou_threshold <= 1:
        found["iou"] = round(plugin.iou_threshold, 6)
    if plugin.max_detections is not None and plugin.max_detections > 0:
        found["max_detections"] = min(plugin.max_detections, 1000)
    return found


def _decode(graph: gs.Graph, card: Card) -> Candidates:
    head = Head.model_validate(card.head)
    boxes, scores = _output(graph, "boxes", head.boxes), _output(graph, "scores", head.scores)
    of_each_class = len(boxes.shape) == 4 and boxes.shape[2] != 1
    if len(boxes.shape) == 4 and not of_each_class:
        boxes = layer(graph, "Squeeze", boxes, int64(2))
    if head.classes_first:
        columns = scores.shape[1]
        scores = layer(graph, "Transpose", scores, perm=[0, 2, 1])
    else:
        expect_anchors("head.anchors", str(head.anchors), head.anchors, scores, scores.shape[1])
        columns = scores.shape[2]
    if head.activation == "sigmoid":
        scores = layer(graph, "Sigmoid", scores)
    kept = [column for column in range(columns) if column != head.background]
    expect_classes(card, _output(graph, "scores", head.scores), len(kept))
    if len(kept) != columns:
        scores = layer(graph, "Gather", scores, int64(*kept), axis=2)
    if not of_each_class:
        return Candidates(_corners(graph, card, head, boxes), scores)
    if len(kept) != columns:
        boxes = layer(graph, "Gather", boxes, int64(*kept), axis=2)
    boxes = layer(graph, "Reshape", boxes, int64(0, head.anchors * len(kept), 4))
    scores = layer(graph, "Reshape", scores, int64(0, head.anchors * len(kept)))
    numbers = np.tile(np.arange(len(kept)), head.anchors)[None]
    return Candidates(
        _corners(graph, card, head, boxes),
        scores,
        layer(graph, "Expand", numbers, layer(graph, "Shape", scores)),
    )


def _output(graph: gs.Graph, field: str, name: str) -> gs.Tensor:
    for output in graph.outputs:
        if output.name == name:
            return output
    found = ", ".join(output.name for output in graph.outputs)
    raise CardError(f"card: head.{field}: got {name!r}, but the graph's outputs are {found}")


def _corners(graph: gs.Graph, card: Card, head: Head, boxes: gs.Tensor) -> gs.Tensor:
    """Any coding to x1,y1,x2,y2 in network pixels."""
    if head.coding == "yxyx":
        boxes = layer(graph, "Gather", boxes, int64(1, 0, 3, 2), axis=2)
    if head.units == "normalised":
        boxes = layer(graph, "Mul", boxes, float32([*card.input_wh, *card.input_wh]))
    if head.coding == "cxcywh":
        return corners(graph, slice_last(graph, boxes, 0, 2), slice_last(graph, boxes, 2, 4))
    return boxes


FAMILY = Family(
    name="pair",
    expects="decoded boxes [N,A,4] and scores [N,A,C] or [N,C,A], or what a suppression plugin was given",
    head=Head,
    num_anchors=_num_anchors,
    recognise=_recognise,
    decode=_decode,
)
