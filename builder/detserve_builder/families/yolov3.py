"""YOLOv3 (Redmon and Farhadi 2018, arXiv:1804.02767): anchors on two or three feature maps.

One output [N, B*(5+C), h, w] per stride, per anchor t_x, t_y, t_w, t_h, objectness, class logits.
Decode, section 2.1 of the paper: ``centre = (sigmoid(t_xy) + cell) * stride``,
``size = anchor * exp(t_wh)``, ``score = sigmoid(objectness) * sigmoid(class)``. ``scale_xy`` is Darknet's
scale_x_y (YOLOv4, arXiv:2004.10934): ``sigmoid(t) * s - (s - 1) / 2``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from detserve_builder.checkpoint import Checkpoint
from detserve_builder.families.family import Candidates, Draft, Family
from detserve_builder.families.reading import channel_parts
from detserve_builder.graph import cell_grid, corners, float32, int64, layer, slice_last
from detserve_client.card import Card
from detserve_client.errors import CardError

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

_Positive = Annotated[float, Field(gt=0)]


class Head(BaseModel):
    """Per stride, finest first: the stride and its anchors (width, height in network pixels)."""

    model_config = ConfigDict(extra="forbid")
    strides: Annotated[list[Annotated[int, Field(gt=0)]], Field(min_length=1)]
    anchors_wh_px: list[Annotated[list[tuple[_Positive, _Positive]], Field(min_length=1)]]
    scale_xy: Annotated[float, Field(ge=1)] = 1.0

    @model_validator(mode="after")
    def _one_list_per_stride(self) -> Head:
        if len(self.strides) != len(self.anchors_wh_px):
            raise ValueError(f"{len(self.strides)} strides but {len(self.anchors_wh_px)} lists of anchors")
        return self


def _num_anchors(card: Card) -> int:
    head, (width, height) = Head.model_validate(card.head), card.input_wh
    cells = ((width // stride) * (height // stride) for stride in head.strides)
    return sum(count * len(anchors) for count, anchors in zip(cells, head.anchors_wh_px, strict=True))


def _recognise(checkpoint: Checkpoint) -> Draft | None:
    if len(checkpoint.inputs) != 1 or len(checkpoint.outputs) not in (2, 3):
        return None
    image = checkpoint.inputs[0].shape
    maps = [output.shape for output in checkpoint.outputs]
    if len(image) != 4 or not all(isinstance(size, int) for size in image[2:]):
        return None
    if not all(len(shape) == 4 and all(isinstance(size, int) for size in shape[1:]) for shape in maps):
        return None
    height, width = int(image[2]), int(image[3])
    strides = sorted(height // int(shape[2]) for shape in maps)
    fits = all(
        int(shape[2]) * stride == height and int(shape[3]) * stride == width
        for shape, stride in zip(sorted(maps, key=lambda shape: -int(shape[2])), strides, strict=True)
    )
    channels = {int(shape[1]) for shape in maps}
    if not fits or len(channels) != 1 or min(channels) < 6:
        return None
    if channel_parts(checkpoint, checkpoint.outputs[0]):
        return None  # boxes and classes from two branches: an anchor-free head
    fields, remainder = divmod(channels.pop(), 3)  # three anchors a map, unless the card says otherwise
    return Draft(
        card_fields={
            "input_wh": [width, height],
            "preprocess": {"resize": "letterbox_center", "color": "rgb", "scale": 1 / 255},
            "head": {"strides": strides},
        },
        num_classes=None if remainder else fields - 5,
    )


def _decode(graph: gs.Graph, card: Card) -> Candidates:
    head = Head.model_validate(card.head)
    by_width = {output.shape[3]: output for output in graph.outputs}
    boxes, scores = [], []
    for stride, anchors in zip(head.strides, head.anchors_wh_px, strict=True):
        feature_map = by_width.get(card.input_wh[0] // stride)
        expected = len(anchors) * (5 + len(card.labels))
        if feature_map is None or feature_map.shape[1] != expected:
            found = ", ".join(f"{output.name} {output.shape}" for output in graph.outputs)
            raise CardError(
                f"card: head.anchors_wh_px: {len(anchors)} anchors and {len(card.labels)} labels at stride "
                f"{stride} need an output with {expected} channels, the graph has {found}"
            )
        box, score = _decode_map(graph, card, feature_map, stride, anchors, head.scale_xy)
        boxes.append(box)
        scores.append(score)
    return Candidates(layer(graph, "Concat", *boxes, axis=1), layer(graph, "Concat", *scores, axis=1))


def _decode_map(
    graph: gs.Graph,
    card: Card,
    feature_map: gs.Tensor,
    stride: int,
    anchors_wh_px: list[tuple[float, float]],
    scale_xy: float,
) -> tuple[gs.Tensor, gs.Tensor]:
    """One feature map [N,B*(5+C),h,w] to boxes [N,B*h*w,4] and scores [N,B*h*w,C]."""
    width, height = card.input_wh[0] // stride, card.input_wh[1] // stride
    per_anchor, fields = len(anchors_wh_px), 5 + len(card.labels)
    split = layer(graph, "Reshape", feature_map, int64(0, per_anchor, fields, height * width))
    rows = layer(graph, "Transpose", split, perm=[0, 1, 3, 2])
    rows = layer(graph, "Reshape", rows, int64(0, per_anchor * height * width, fields))
    cells = np.tile(cell_grid(width, height), (per_anchor, 1))
    anchors = np.repeat(float32(anchors_wh_px), height * width, axis=0)

    activated = layer(graph, "Sigmoid", rows)
    offset = slice_last(graph, activated, 0, 2)
    if scale_xy != 1:
        offset = layer(graph, "Mul", offset, float32(scale_xy))
        cells = cells - float32((scale_xy - 1) / 2)
    center = layer(graph, "Mul", layer(graph, "Add", offset, cells), float32(stride))
    size = layer(graph, "Mul", layer(graph, "Exp", slice_last(graph, rows, 2, 4)), anchors)
    objectness = slice_last(graph, activated, 4, 5)
    classes = slice_last(graph, activated, 5, fields)
    return corners(graph, center, size), layer(graph, "Mul", classes, objectness)


FAMILY = Family(
    name="yolov3",
    expects="two or three outputs [N,3*(5+C),h,w], one per stride",
    head=Head,
    num_anchors=_num_anchors,
    recognise=_recognise,
    decode=_decode,
)
