"""YOLOv8, YOLO11 and YOLO12 (Ultralytics 2023-2025): anchor-free, distances as distributions, no objectness.

Decoded, as exported: one output [N,4+C,A]: cx, cy, w, h in network pixels and C scores, sigmoid already.
Raw heads: per stride [N,4*reg_max+C,h,w]. Decode: a distance is the softmax expectation over reg_max bins
(arXiv:2006.04388), ``x1y1 = (cell + .5 - left_top) * stride``,
``x2y2 = (cell + .5 + right_bottom) * stride``, ``score = sigmoid(class)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from detserve_builder.checkpoint import Checkpoint
from detserve_builder.families.family import Candidates, Draft, Family
from detserve_builder.families.reading import (
    channel_parts,
    classes_beside,
    expect_anchors,
    expect_classes,
    image_wh,
    last_op,
    num_cells,
    strides_of,
)
from detserve_builder.graph import (
    cell_grid,
    corners,
    distribution_corners,
    float32,
    layer,
    map_rows,
    slice_last,
)
from detserve_client.card import Card
from detserve_client.errors import CardError

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

REG_MAX = 16
STRIDE_SETS = ([8, 16, 32], [8, 16, 32, 64], [4, 8, 16, 32])  # the usual, P6 and P2 models

_Positive = Annotated[int, Field(gt=0)]


class Head(BaseModel):
    """Strides, finest first, and the bins of a distance's distribution (raw heads only)."""

    model_config = ConfigDict(extra="forbid")
    strides: Annotated[list[_Positive], Field(min_length=1)] = STRIDE_SETS[0]
    reg_max: _Positive = REG_MAX


def _num_anchors(card: Card) -> int:
    return num_cells(card.input_wh, Head.model_validate(card.head).strides)


def _recognise(checkpoint: Checkpoint) -> Draft | None:
    wh = image_wh(checkpoint)
    if wh is None or len(checkpoint.inputs) != 1:
        return None
    if len(checkpoint.outputs) == 1 and len(checkpoint.outputs[0].shape) == 3:
        return _recognise_decoded(checkpoint, wh)
    if len(checkpoint.outputs) in (3, 4) and all(len(out.shape) == 4 for out in checkpoint.outputs):
        return _recognise_raw(checkpoint, wh)
    return None


def _recognise_decoded(checkpoint: Checkpoint, wh: tuple[int, int]) -> Draft | None:
    _, fields, anchors = checkpoint.outputs[0].shape
    strides = next((strides for strides in STRIDE_SETS if num_cells(wh, strides) == anchors), None)
    if strides is None or not isinstance(fields, int) or fields <= 4:
        return None
    return _draft(wh, {"strides": strides}, fields - 4)


def _recognise_raw(checkpoint: Checkpoint, wh: tuple[int, int]) -> Draft | None:
    shapes = [output.shape for output in checkpoint.outputs]
    strides, channels = strides_of([shape[2:] for shape in shapes], wh), shapes[0][1]
    if strides is None or sorted(strides) not in STRIDE_SETS or {shape[1] for shape in shapes} != {channels}:
        return None
    parts = channel_parts(checkpoint, checkpoint.outputs[0])
    if not isinstance(channels, int) or (last_op(checkpoint, checkpoint.outputs[0]) == "Conv" and not parts):
        return None  # one convolution for the whole map: an anchor-based head
    box_channels = parts[0] if len(parts) == 2 and parts[0] else 4 * REG_MAX
    if box_channels % 4 or channels <= box_channels:
        return None
    head = {"strides": sorted(strides), "reg_max": box_channels // 4}
    return _draft(wh, head, channels - box_channels)


def _draft(wh: tuple[int, int], head: dict[str, object], num_classes: int) -> Draft:
    return Draft(
        card_fields={
            "input_wh": list(wh),
            "preprocess": {"resize": "letterbox_center", "pad_value": 114, "color": "rgb", "scale": 1 / 255},
            "head": head,
        },
        num_classes=num_classes,
    )


def _decode(graph: gs.Graph, card: Card) -> Candidates:
    head = Head.model_validate(card.head)
    if len(graph.outputs) > 1:
        return _decode_raw(graph, card, head)
    output, anchors = graph.outputs[0], num_cells(card.input_wh, head.strides)
    expect_anchors("head.strides", str(head.strides), anchors, output, output.shape[2])
    expect_classes(card, output, output.shape[1] - 4)
    rows = layer(graph, "Transpose", output, perm=[0, 2, 1])
    boxes = corners(graph, slice_last(graph, rows, 0, 2), slice_last(graph, rows, 2, 4))
    return Candidates(boxes, slice_last(graph, rows, 4, 4 + len(card.labels)))


def _decode_raw(graph: gs.Graph, card: Card, head: Head) -> Candidates:
    by_width = {output.shape[3]: output for output in graph.outputs}
    boxes, scores = [], []
    for stride in head.strides:
        width, height = -(-card.input_wh[0] // stride), -(-card.input_wh[1] // stride)
        feature_map = by_width.get(width)
        if feature_map is None or len(graph.outputs) != len(head.strides):
            found = ", ".join(f"{output.name} {output.shape}" for output in graph.outputs)
            raise CardError(f"card: head.strides: got {head.strides}, but the graph has {found}")
        channels, box_channels = feature_map.shape[1], 4 * head.reg_max
        expect_classes(card, feature_map, classes_beside("head.reg_max", box_channels, feature_map, channels))
        rows = map_rows(graph, feature_map, channels, width * height)
        boxes.append(
            distribution_corners(
                graph,
                slice_last(graph, rows, 0, box_channels),
                head.reg_max,
                (cell_grid(width, height) + float32(0.5)) * float32(stride),
                np.full((width * height, 1), stride, np.float32),
            )
        )
        scores.append(layer(graph, "Sigmoid", slice_last(graph, rows, box_channels, channels)))
    return Candidates(layer(graph, "Concat", *boxes, axis=1), layer(graph, "Concat", *scores, axis=1))


FAMILY = Family(
    name="yolov8",
    expects="one output [N,4+C,A] with A the cells of all strides, or three or four [N,64+C,h,w]",
    head=Head,
    num_anchors=_num_anchors,
    recognise=_recognise,
    decode=_decode,
)
