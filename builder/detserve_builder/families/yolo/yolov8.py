"""YOLOv8 to YOLO26 (Ultralytics 2023-2026): anchor-free, no objectness; distances as distributions.

Decoded, as exported: one output [N,4+C,A] or [N,A,4+C]: cx, cy, w, h in network pixels and C scores, sigmoid
already. Models of the task segment have M mask coefficients behind them and a second output [N,M,h,w], those
of the task pose the key points: their boxes are served.
Raw heads: per stride [N,4*reg_max+C,h,w]. Decode: a distance is the softmax expectation over reg_max bins
(arXiv:2006.04388), ``x1y1 = (cell + .5 - left_top) * stride``,
``x2y2 = (cell + .5 + right_bottom) * stride``, ``score = sigmoid(class)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from detserve_builder.checkpoint import Checkpoint, TensorInfo
from detserve_builder.errors import BuildError
from detserve_builder.families.columns import Column, are_corners, are_products, box_and_classes, columns_of
from detserve_builder.families.family import Candidates, Draft, Family
from detserve_builder.families.probing import BoxForm, box_form, probe_outputs
from detserve_builder.families.reading import (
    channel_parts,
    classes_beside,
    expect_anchors,
    expect_classes,
    image_wh,
    last_op,
    num_cells,
    ops_of_parts,
    strides_of,
)
from detserve_builder.families.yolo import ultralytics
from detserve_builder.graph.layers import (
    cell_grid,
    corners,
    distribution_corners,
    float32,
    layer,
    map_rows,
    slice_last,
)
from detserve_core.card import Card
from detserve_core.errors import CardError

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

REG_MAX = 16
STRIDE_SETS = ([8, 16, 32], [8, 16, 32, 64], [4, 8, 16, 32])  # the usual, P6 and P2 models
RARE_STRIDE_SETS = (
    [16, 32],
    [4, 8, 16],
    [8, 16],
    [8],
    [16],
    [32],
    [4, 8, 16, 32, 64],
)  # YOLOv3-tiny, cut heads

_Positive = Annotated[int, Field(gt=0)]


class Head(BaseModel):
    """Strides, finest first, and the bins of a distance's distribution (raw heads only).

    ``columns_behind`` counts the columns behind the class scores: mask coefficients or key points. ``boxes``
    in network pixels are centre and size, or corners as other anchor-free heads join them.
    """

    model_config = ConfigDict(extra="forbid")
    strides: Annotated[list[_Positive], Field(min_length=1)] = STRIDE_SETS[0]
    reg_max: _Positive = REG_MAX
    columns_behind: Annotated[int, Field(ge=0)] = 0
    boxes: Literal["cxcywh", "xyxy"] = "cxcywh"


def _num_anchors(card: Card) -> int:
    return num_cells(card.input_wh, Head.model_validate(card.head).strides)


def _recognise(checkpoint: Checkpoint) -> Draft | None:
    wh = image_wh(checkpoint)
    if wh is None or len(checkpoint.inputs) != 1:
        return None
    ultralytics.refuse_other_tasks(checkpoint)
    ranks = sorted(len(output.shape) for output in checkpoint.outputs)
    if ranks in ([3], [3, 4]):
        return _recognise_decoded(checkpoint, wh)
    if ranks in ([4] * 3, [4] * 4):
        return _recognise_raw(checkpoint, wh)
    return None


def _recognise_decoded(checkpoint: Checkpoint, wh: tuple[int, int]) -> Draft | None:
    output = next(output for output in checkpoint.outputs if len(output.shape) == 3)
    prototypes = [output for output in checkpoint.outputs if len(output.shape) == 4]
    for axis in (1, 2):
        fields, anchors = output.shape[axis], output.shape[3 - axis]
        if not isinstance(fields, int) or fields <= 4:
            continue
        columns = columns_of(checkpoint, output, axis)
        if _has_objectness(columns):
            continue
        found = box_and_classes(columns)
        known = found is not None and (
            axis == 1 or len({column.tensor for column in columns[4 : 4 + found[0]]}) == 1
        )
        sets = (*STRIDE_SETS, *RARE_STRIDE_SETS) if known else STRIDE_SETS
        strides = next((strides for strides in sets if num_cells(wh, strides) == anchors), None)
        if strides is None or (axis == 2 and not known):
            continue
        classes, behind = ultralytics.classes_and_behind(
            checkpoint, fields - 4, found if known else None, prototypes
        )
        head: dict[str, object] = {"strides": strides, **({"columns_behind": behind} if behind else {})}
        draft = _draft(checkpoint, wh, head, classes)
        if ultralytics.is_export(checkpoint) and not are_corners(checkpoint, columns):
            return draft
        return _with_form(checkpoint, draft, _form(checkpoint, output, axis, wh, strides))
    return None


def _has_objectness(columns: Sequence[Column]) -> bool:
    """Whether the fifth column is a sigmoid apart from those behind it: YOLOX's or YOLOv5's, turned."""
    if len(columns) > 6 and columns[4].is_sigmoid and are_products(columns[5:], columns[0]):
        return True
    if len(columns) <= 6 or not all(column.is_sigmoid for column in columns[4:7]):
        return False
    return columns[4].tensor not in (columns[5].tensor, columns[6].tensor)


def _form(
    checkpoint: Checkpoint, output: TensorInfo, axis: int, wh: tuple[int, int], strides: list[int]
) -> BoxForm | None:
    """What the boxes are, by how the graph makes them, or else by what it gives."""
    rows = probe_outputs(checkpoint).get(output.name)
    seen = None if rows is None else box_form(rows[0] if axis == 2 else rows[0].T, wh, strides)
    corners_made = are_corners(checkpoint, columns_of(checkpoint, output, axis))
    if corners_made is None or seen is BoxForm.SHARES:
        return seen
    return BoxForm.XYXY if corners_made else BoxForm.CXCYWH


def _with_form(checkpoint: Checkpoint, draft: Draft, form: BoxForm | None) -> Draft:
    """``draft`` with what the boxes are; raises BuildError for shares."""
    if form is BoxForm.SHARES:
        raise BuildError(
            f"{checkpoint.path}: its boxes are shares of the input, where YOLOv8 has network pixels; "
            'describe it in a card of the family generic, with "units": "normalised"'
        )
    head = {**draft.card_fields["head"], "boxes": (form or BoxForm.CXCYWH).value}
    guesses = {"head.boxes": "xyxy"} if form is None else {}
    return replace(draft, card_fields={**draft.card_fields, "head": head}, guesses=guesses)


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
    if "Sigmoid" in ops_of_parts(checkpoint, checkpoint.outputs[0]):
        return None  # activated already, and not as any exporter does
    if parts and 4 * REG_MAX in parts[1:] and parts[0] != 4 * REG_MAX:
        return None  # classes first
    head = {"strides": sorted(strides), "reg_max": box_channels // 4}
    return _draft(checkpoint, wh, head, channels - box_channels)


def _draft(checkpoint: Checkpoint, wh: tuple[int, int], head: dict[str, object], num_classes: int) -> Draft:
    return Draft(
        card_fields={"input_wh": list(wh), "preprocess": ultralytics.PREPROCESS, "head": head},
        num_classes=num_classes,
        from_metadata=frozenset({"preprocess"} if ultralytics.is_export(checkpoint) else ()),
    )


def _decode(graph: gs.Graph, card: Card) -> Candidates:
    head = Head.model_validate(card.head)
    output = next((output for output in graph.outputs if len(output.shape) == 3), None)
    if output is None:
        return _decode_raw(graph, card, head)
    anchors = num_cells(card.input_wh, head.strides)
    anchors_last = output.shape[1] != anchors
    expect_anchors("head.strides", str(head.strides), anchors, output, output.shape[2 if anchors_last else 1])
    box_columns = 4 + head.columns_behind
    columns = classes_beside(
        "head.columns_behind", box_columns, output, output.shape[1 if anchors_last else 2]
    )
    expect_classes(card, output, columns)
    rows = layer(graph, "Transpose", output, perm=[0, 2, 1]) if anchors_last else output
    boxes = slice_last(graph, rows, 0, 4)
    if head.boxes == "cxcywh":
        boxes = corners(graph, slice_last(graph, boxes, 0, 2), slice_last(graph, boxes, 2, 4))
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
    expects="an output [N,4+C,A] or [N,A,4+C] with A the cells of all strides, or three or four [N,64+C,h,w]",
    head=Head,
    num_anchors=_num_anchors,
    recognise=_recognise,
    decode=_decode,
)
