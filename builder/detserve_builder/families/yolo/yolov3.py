"""YOLOv3 (Redmon and Farhadi 2018, arXiv:1804.02767): anchors on one feature map per stride.

One output [N, B*(5+C), h, w] per stride, per anchor t_x, t_y, t_w, t_h, objectness, class logits; B may
differ from map to map.
Decode, section 2.1 of the paper: ``centre = (sigmoid(t_xy) + cell) * stride``,
``size = anchor * exp(t_wh)``, ``score = sigmoid(objectness) * sigmoid(class)``. ``scale_xy`` is Darknet's
scale_x_y (YOLOv4, arXiv:2004.10934): ``sigmoid(t) * s - (s - 1) / 2``. With ``new_coords`` (Scaled-YOLOv4,
arXiv:2011.08036, and Darknet's get_yolo_box) the network ends in the sigmoid itself and
``size = anchor * (2 * t_wh) ** 2``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from detserve_builder.checkpoint import Checkpoint
from detserve_builder.families.family import Candidates, Draft, Family
from detserve_builder.families.reading import channel_parts
from detserve_builder.graph.layers import cell_grid, corners, float32, int64, layer, slice_last
from detserve_core.card import Card
from detserve_core.errors import CardError

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

_Positive = Annotated[float, Field(gt=0)]
_Scale = Annotated[float, Field(ge=1)]
_FEWEST_FIELDS = 6  # of an anchor: four coordinates, objectness, one class
_USUAL_ANCHORS = 3  # on a map, where neither the file nor the card says


class Head(BaseModel):
    """Per stride, finest first: the stride and its anchors (width, height in network pixels).

    ``scale_xy`` is one number or one per stride.
    """

    model_config = ConfigDict(extra="forbid")
    strides: Annotated[list[Annotated[int, Field(gt=0)]], Field(min_length=1)]
    anchors_wh_px: list[Annotated[list[tuple[_Positive, _Positive]], Field(min_length=1)]]
    scale_xy: _Scale | list[_Scale] = 1.0
    new_coords: bool = False

    @model_validator(mode="after")
    def _one_list_per_stride(self) -> Head:
        if len(self.strides) != len(self.anchors_wh_px):
            raise ValueError(f"{len(self.strides)} strides but {len(self.anchors_wh_px)} lists of anchors")
        if len(self.strides) != len(self.scales_xy):
            raise ValueError(f"{len(self.strides)} strides but {len(self.scales_xy)} values of scale_xy")
        if len(self.strides) != len(set(self.strides)):
            raise ValueError(f"strides are {self.strides}, expected different ones")
        return self

    @property
    def scales_xy(self) -> list[float]:
        """``scale_xy`` per stride."""
        return self.scale_xy if isinstance(self.scale_xy, list) else [self.scale_xy] * len(self.strides)


def _num_anchors(card: Card) -> int:
    head, (width, height) = Head.model_validate(card.head), card.input_wh
    cells = ((width // stride) * (height // stride) for stride in head.strides)
    return sum(count * len(anchors) for count, anchors in zip(cells, head.anchors_wh_px, strict=True))


def _recognise(checkpoint: Checkpoint) -> Draft | None:
    if len(checkpoint.inputs) != 1 or {"stride", "names"} <= checkpoint.metadata.keys():
        return None  # of YOLOv5's export.py, whose raw maps decode otherwise
    image = checkpoint.inputs[0].shape
    shapes = [output.shape for output in checkpoint.outputs]
    if len(image) != 4 or not all(isinstance(size, int) for size in image[2:]):
        return None
    if not all(len(shape) == 4 and all(isinstance(size, int) for size in shape[1:]) for shape in shapes):
        return None
    height, width = int(image[2]), int(image[3])
    maps = sorted(((int(c), int(h), int(w)) for _, c, h, w in shapes), key=lambda size: -size[1])
    strides = [height // map_height for _, map_height, _ in maps]
    fits = all(
        (map_width * stride, map_height * stride) == (width, height)
        for (_, map_height, map_width), stride in zip(maps, strides, strict=True)
    )
    said = checkpoint.card_fields.get("head", {}).get("anchors_wh_px")
    num_anchors = [len(anchors) for anchors in said] if said else [_USUAL_ANCHORS] * len(maps)
    channels = [map_channels for map_channels, _, _ in maps]
    if not fits or len(set(strides)) != len(strides) or math.gcd(*channels) < _FEWEST_FIELDS:
        return None
    if channel_parts(checkpoint, checkpoint.outputs[0]):
        return None  # boxes and classes from two branches: an anchor-free head
    fields = {divmod(count, anchors) for count, anchors in zip(channels, num_anchors, strict=True)}
    whole = {count for count, remainder in fields if remainder == 0 and count >= _FEWEST_FIELDS}
    known = len(fields) == len(whole) == 1
    if len(maps) == 1 and not known:
        return None  # one map could be anything
    return Draft(
        card_fields={
            "input_wh": [width, height],
            "preprocess": {"resize": "letterbox_center", "color": "rgb", "scale": 1 / 255},
            "head": {"strides": strides},
        },
        num_classes=whole.pop() - 5 if known else None,
    )


def _decode(graph: gs.Graph, card: Card) -> Candidates:
    head = Head.model_validate(card.head)
    by_width = {output.shape[3]: output for output in graph.outputs}
    boxes, scores = [], []
    for stride, anchors, scale_xy in zip(head.strides, head.anchors_wh_px, head.scales_xy, strict=True):
        feature_map = by_width.get(card.input_wh[0] // stride)
        expected = len(anchors) * (5 + len(card.labels))
        if feature_map is None or feature_map.shape[1] != expected:
            found = ", ".join(f"{output.name} {output.shape}" for output in graph.outputs)
            raise CardError(
                f"card: head.anchors_wh_px: {len(anchors)} anchors and {len(card.labels)} labels at stride "
                f"{stride} need an output with {expected} channels, the graph has {found}"
            )
        rows = _rows(graph, feature_map, len(anchors), 5 + len(card.labels))
        box, score = _decode_rows(graph, card, rows, stride, anchors, scale_xy, head.new_coords)
        boxes.append(box)
        scores.append(score)
    return Candidates(layer(graph, "Concat", *boxes, axis=1), layer(graph, "Concat", *scores, axis=1))


def _rows(graph: gs.Graph, feature_map: gs.Tensor, num_anchors: int, fields: int) -> gs.Tensor:
    """One feature map [N,B*(5+C),h,w] to a row per anchor and cell [N,B*h*w,5+C]."""
    cells = feature_map.shape[2] * feature_map.shape[3]
    split = layer(graph, "Reshape", feature_map, int64(0, num_anchors, fields, cells))
    split = layer(graph, "Transpose", split, perm=[0, 1, 3, 2])
    return layer(graph, "Reshape", split, int64(0, num_anchors * cells, fields))


def _decode_rows(
    graph: gs.Graph,
    card: Card,
    rows: gs.Tensor,
    stride: int,
    anchors_wh_px: list[tuple[float, float]],
    scale_xy: float,
    new_coords: bool,
) -> tuple[gs.Tensor, gs.Tensor]:
    """Rows [N,A,5+C] of one map to boxes [N,A,4] and scores [N,A,C]."""
    width, height = card.input_wh[0] // stride, card.input_wh[1] // stride
    cells = np.tile(cell_grid(width, height), (len(anchors_wh_px), 1))
    anchors = np.repeat(float32(anchors_wh_px), height * width, axis=0)

    activated = rows if new_coords else layer(graph, "Sigmoid", rows)
    offset = slice_last(graph, activated, 0, 2)
    if scale_xy != 1:
        offset = layer(graph, "Mul", offset, float32(scale_xy))
        cells = cells - float32((scale_xy - 1) / 2)
    center = layer(graph, "Mul", layer(graph, "Add", offset, cells), float32(stride))
    growth = slice_last(graph, rows, 2, 4)
    if new_coords:
        size = layer(graph, "Mul", layer(graph, "Mul", growth, growth), 4 * anchors)
    else:
        size = layer(graph, "Mul", layer(graph, "Exp", growth), anchors)
    objectness = slice_last(graph, activated, 4, 5)
    classes = slice_last(graph, activated, 5, 5 + len(card.labels))
    return corners(graph, center, size), layer(graph, "Mul", classes, objectness)


FAMILY = Family(
    name="yolov3",
    expects="outputs [N,B*(5+C),h,w], one per stride",
    head=Head,
    num_anchors=_num_anchors,
    recognise=_recognise,
    decode=_decode,
)
