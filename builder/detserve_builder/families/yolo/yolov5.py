"""YOLOv5 (Ultralytics 2020) and YOLOv7 (Wang et al. 2022, arXiv:2207.02696): three anchors a cell.

Decoded, as exported (YOLOv7: with --grid): one output [N,A,5+C] with A three times the cells: cx, cy, w, h in
network pixels, objectness and class scores, sigmoid already. Models for segmentation have M mask coefficients
behind them and a second output [N,M,h,w]. Raw: per stride [N,3,h,w,5+C] or [N,3*(5+C),h,w], logits.
Decode, models/yolo.py (Detect) of both: ``centre = (2 * sigmoid(t_xy) - .5 + cell) * stride``,
``size = (2 * sigmoid(t_wh))**2 * anchor``, ``score = objectness * class``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from detserve_builder.checkpoint import Checkpoint, TensorInfo
from detserve_builder.families.columns import are_products, columns_of
from detserve_builder.families.faces import has_landmark_columns
from detserve_builder.families.family import Candidates, Draft, Family
from detserve_builder.families.probing import gives_class_numbers
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
from detserve_builder.families.yolo import ultralytics
from detserve_builder.graph.layers import cell_grid, corners, float32, int64, layer, slice_last
from detserve_core.card import Card
from detserve_core.errors import CardError

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

STRIDE_SETS = ([8, 16, 32], [8, 16, 32, 64])
PER_CELL = 3

_Positive = Annotated[float, Field(gt=0)]
_Anchors = Annotated[list[tuple[_Positive, _Positive]], Field(min_length=PER_CELL, max_length=PER_CELL)]


class Head(BaseModel):
    """Strides, finest first; for raw maps also each stride's three anchors (width, height in pixels).

    ``columns_behind`` counts the mask coefficients behind the class scores.
    """

    model_config = ConfigDict(extra="forbid")
    strides: Annotated[list[Annotated[int, Field(gt=0)]], Field(min_length=1)] = STRIDE_SETS[0]
    anchors_wh_px: list[_Anchors] | None = None
    sigmoid_in_graph: bool = False
    columns_behind: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _one_list_per_stride(self) -> Head:
        if self.anchors_wh_px is not None and len(self.strides) != len(self.anchors_wh_px):
            raise ValueError(f"{len(self.strides)} strides but {len(self.anchors_wh_px)} lists of anchors")
        return self


def _num_anchors(card: Card) -> int:
    return PER_CELL * num_cells(card.input_wh, Head.model_validate(card.head).strides)


def _recognise(checkpoint: Checkpoint) -> Draft | None:
    wh = image_wh(checkpoint)
    if wh is None or len(checkpoint.inputs) != 1:
        return None
    flat = [output for output in checkpoint.outputs if len(output.shape) == 3]
    maps = [output for output in checkpoint.outputs if len(output.shape) in (4, 5)]
    if has_landmark_columns(checkpoint):
        return None  # YOLOv5-face
    if len(flat) == 1 and (len(maps) <= 1 or all(len(output.shape) == 5 for output in maps)):
        return _recognise_decoded(checkpoint, flat[0], maps, wh)  # older exports give the raw maps too
    if flat or len(maps) not in (3, 4):
        return None
    return _recognise_raw(checkpoint, maps, wh)


def _recognise_decoded(
    checkpoint: Checkpoint, output: TensorInfo, beside: list[TensorInfo], wh: tuple[int, int]
) -> Draft | None:
    _, anchors, fields = output.shape
    strides = next((s for s in STRIDE_SETS if PER_CELL * num_cells(wh, s) == anchors), None)
    if strides is None or not isinstance(fields, int) or fields <= 5:
        return None
    columns = columns_of(checkpoint, output, 2)
    prototypes = [other for other in beside if len(other.shape) == 4]
    behind = prototypes[0].shape[1] if prototypes else 0
    if (
        not isinstance(behind, int)
        or fields - 5 - behind < 1
        or gives_class_numbers(checkpoint, output, columns)
    ):
        return None
    if columns and are_products(columns[4 : fields - behind], columns[0]):
        return None
    scores = columns[5 : fields - behind]
    if any(column.is_sigmoid for column in scores) and not all(column.is_sigmoid for column in scores):
        return None  # key points among the columns
    head: dict[str, object] = {"strides": strides, **({"columns_behind": behind} if behind else {})}
    return _draft(checkpoint, wh, head, fields - 5 - behind)


def _recognise_raw(checkpoint: Checkpoint, maps: list[TensorInfo], wh: tuple[int, int]) -> Draft | None:
    rank = len(maps[0].shape)
    if any(len(output.shape) != rank for output in maps):
        return None
    sizes = [output.shape[2:4] for output in maps]
    fields = {_fields(output) for output in maps}
    strides = strides_of(sizes, wh)
    if strides is None or sorted(strides) not in STRIDE_SETS or len(fields) != 1 or min(fields) <= 5:
        return None
    if rank == 4 and channel_parts(checkpoint, maps[0]):
        return None  # boxes and classes from two branches: an anchor-free head
    activated = last_op(checkpoint, maps[0]) == "Sigmoid"
    return _draft(
        checkpoint, wh, {"strides": sorted(strides), "sigmoid_in_graph": activated}, fields.pop() - 5
    )


def _fields(output: TensorInfo) -> int:
    """5+C of a raw map, 0 where it is not one."""
    if len(output.shape) == 5:
        return output.shape[4] if output.shape[1] == PER_CELL and isinstance(output.shape[4], int) else 0
    channels = output.shape[1]
    return channels // PER_CELL if isinstance(channels, int) and channels % PER_CELL == 0 else 0


def _draft(checkpoint: Checkpoint, wh: tuple[int, int], head: dict[str, object], num_classes: int) -> Draft:
    known = {"stride", "names"} <= checkpoint.metadata.keys()  # what its export.py writes
    return Draft(
        card_fields={"input_wh": list(wh), "preprocess": ultralytics.PREPROCESS, "head": head},
        num_classes=num_classes,
        from_metadata=frozenset({"preprocess"} if known else ()),
    )


def _decode(graph: gs.Graph, card: Card) -> Candidates:
    head = Head.model_validate(card.head)
    fields = 5 + len(card.labels)
    flat = next((output for output in graph.outputs if len(output.shape) == 3), None)
    if flat is not None:
        expect_anchors("head.strides", str(head.strides), _num_anchors(card), flat, flat.shape[1])
        box_columns = 5 + head.columns_behind
        expect_classes(card, flat, classes_beside("head.columns_behind", box_columns, flat, flat.shape[2]))
        boxes = corners(graph, slice_last(graph, flat, 0, 2), slice_last(graph, flat, 2, 4))
        return Candidates(boxes, _scores(graph, flat, fields))
    if head.anchors_wh_px is None:
        raise CardError(
            f"card: head.anchors_wh_px: missing; raw maps need the three anchors (width, height) of each "
            f"of the strides {head.strides}"
        )
    decoded = [
        _decode_map(graph, card, head, stride, float32(anchors))
        for stride, anchors in zip(head.strides, head.anchors_wh_px, strict=True)
    ]
    boxes, scores = (layer(graph, "Concat", *parts, axis=1) for parts in zip(*decoded, strict=True))
    return Candidates(boxes, scores)


def _decode_map(
    graph: gs.Graph, card: Card, head: Head, stride: int, anchors_wh_px: NDArray[np.float32]
) -> tuple[gs.Tensor, gs.Tensor]:
    """One raw map to boxes [N,3*h*w,4] and scores [N,3*h*w,C]."""
    width, height = -(-card.input_wh[0] // stride), -(-card.input_wh[1] // stride)
    feature_map = next((output for output in graph.outputs if output.shape[3] == width), None)
    if feature_map is None or len(graph.outputs) != len(head.strides):
        found = ", ".join(f"{output.name} {output.shape}" for output in graph.outputs)
        raise CardError(f"card: head.strides: got {head.strides}, but the graph has {found}")
    fields = 5 + len(card.labels)
    channels_last = len(feature_map.shape) == 5
    found_fields = feature_map.shape[4] if channels_last else feature_map.shape[1] // PER_CELL
    expect_classes(card, feature_map, found_fields - 5)
    rows = feature_map
    if not channels_last:
        split = layer(graph, "Reshape", feature_map, int64(0, PER_CELL, fields, height * width))
        rows = layer(graph, "Transpose", split, perm=[0, 1, 3, 2])
    rows = layer(graph, "Reshape", rows, int64(0, PER_CELL * height * width, fields))
    if not head.sigmoid_in_graph:
        rows = layer(graph, "Sigmoid", rows)
    cells = np.tile(cell_grid(width, height), (PER_CELL, 1)) - float32(0.5)
    anchors = np.repeat(anchors_wh_px, height * width, axis=0)
    doubled = layer(graph, "Mul", slice_last(graph, rows, 0, 4), float32(2))
    offset, ratio = slice_last(graph, doubled, 0, 2), slice_last(graph, doubled, 2, 4)
    center = layer(graph, "Mul", layer(graph, "Add", offset, cells), float32(stride))
    size = layer(graph, "Mul", layer(graph, "Mul", ratio, ratio), anchors)
    return corners(graph, center, size), _scores(graph, rows, fields)


def _scores(graph: gs.Graph, rows: gs.Tensor, fields: int) -> gs.Tensor:
    return layer(graph, "Mul", slice_last(graph, rows, 5, fields), slice_last(graph, rows, 4, 5))


FAMILY = Family(
    name="yolov5",
    expects="one output [N,A,5+C] with three anchors a cell of strides 8, 16, 32 (and 64), "
    "or a map [N,3,h,w,5+C] or [N,3*(5+C),h,w] per stride",
    head=Head,
    num_anchors=_num_anchors,
    recognise=_recognise,
    decode=_decode,
)
