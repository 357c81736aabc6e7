"""YOLOX (Ge et al. 2021, arXiv:2107.08430): anchor-free, decoupled head, strides 8, 16 and 32.

One output [N,A,5+C]: centre offset, log size, objectness, class scores; the last two are sigmoid already.
Decode, demo_utils.demo_postprocess of the official code: ``centre = (t_xy + cell) * stride``,
``size = exp(t_wh) * stride``, ``score = objectness * class``.

Exported with --decode_in_inference, the graph does that itself and gives centre and size in network pixels;
so does YOLOv6 (Li et al. 2022, arXiv:2209.02976), whose objectness is 1 and whose pictures are RGB in 0..1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from detserve_builder.checkpoint import Checkpoint
from detserve_builder.families.columns import Column, are_products, box_and_classes, columns_of
from detserve_builder.families.family import Candidates, Draft, Family
from detserve_builder.families.probing import BoxForm, box_form, gives_class_numbers, probe_outputs
from detserve_builder.families.reading import (
    channel_parts,
    expect_anchors,
    expect_classes,
    image_wh,
    num_cells,
)
from detserve_builder.families.yolo import ultralytics
from detserve_builder.graph.layers import cell_grid, corners, layer, slice_last
from detserve_core.card import Card, Wh

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

STRIDE_SETS = ([8, 16, 32], [8, 16, 32, 64])  # the second is YOLOv6's P6
_CONVOLVED = {"Conv", "QLinearConv", "Add"}


class Head(BaseModel):
    """Strides of the feature maps, in the order in which the output concatenates them.

    ``decoded``: the boxes are cx, cy, w, h in network pixels already.
    """

    model_config = ConfigDict(extra="forbid")
    strides: Annotated[list[Annotated[int, Field(gt=0)]], Field(min_length=1)] = STRIDE_SETS[0]
    decoded: bool = False


def _num_anchors(card: Card) -> int:
    return num_cells(card.input_wh, Head.model_validate(card.head).strides)


def _recognise(checkpoint: Checkpoint) -> Draft | None:
    wh = image_wh(checkpoint)
    if wh is None or len(checkpoint.outputs) != 1 or len(checkpoint.inputs) != 1:
        return None
    output = checkpoint.outputs[0]
    if len(output.shape) != 3 or not isinstance(output.shape[2], int) or output.shape[2] <= 5:
        return None
    strides = next((strides for strides in STRIDE_SETS if num_cells(wh, strides) == output.shape[1]), None)
    columns = columns_of(checkpoint, output, 2)
    if strides is None or len(channel_parts(checkpoint, output)) == 2 or not _fits(columns):
        return None  # YOLOX joins three branches; two are scores and distances
    rows = probe_outputs(checkpoint).get(output.name)
    if rows is None or gives_class_numbers(checkpoint, output, columns):
        return None
    form = box_form(rows[0], wh, strides)
    decoded = _is_decoded(columns) if form is None else form is BoxForm.CXCYWH
    if not decoded and (form is not None or strides != STRIDE_SETS[0]):
        return None  # boxes of another form
    yolov6 = decoded and bool((rows[..., 4] == 1).all())
    preprocess = {"resize": "letterbox_topleft", "pad_value": 114, "color": "bgr"}
    return Draft(
        card_fields={
            "input_wh": list(wh),
            "preprocess": ultralytics.PREPROCESS if yolov6 else preprocess,
            "head": {"strides": strides, "decoded": bool(decoded)},
        },
        num_classes=output.shape[2] - 5,
        guesses={"head.decoded": "true, for boxes in network pixels"} if decoded is None else {},
    )


def _is_decoded(columns: Sequence[Column]) -> bool | None:
    """Whether boxes end in a product with strides, or in a convolution with its bias; None where unseen."""
    made = {column.op for column in columns[:4]}
    if not any(column.is_sigmoid for column in columns):
        return None
    return True if made == {"Mul"} else False if len(made) == 1 and made <= _CONVOLVED else None


def _fits(columns: Sequence[Column]) -> bool:
    """Whether objectness and classes are two tensors, with nothing behind, as far as can be seen."""
    if columns and are_products(columns[4:], columns[0]):
        return False
    if not any(column.is_sigmoid for column in columns):
        return True
    objectness, classes = columns[4], columns[5:]
    if box_and_classes(columns) and objectness.tensor == columns[5].tensor:
        return False
    return all(column.is_sigmoid for column in classes)


def _decode(graph: gs.Graph, card: Card) -> Candidates:
    head, output = Head.model_validate(card.head), graph.outputs[0]
    expect_anchors("head.strides", str(head.strides), _num_anchors(card), output, output.shape[1])
    expect_classes(card, output, output.shape[2] - 5)
    center, size = slice_last(graph, output, 0, 2), slice_last(graph, output, 2, 4)
    if not head.decoded:
        cells, strides = _cells(card.input_wh, head.strides)
        center = layer(graph, "Mul", layer(graph, "Add", center, cells), strides)
        size = layer(graph, "Mul", layer(graph, "Exp", size), strides)
    objectness = slice_last(graph, output, 4, 5)
    classes = slice_last(graph, output, 5, 5 + len(card.labels))
    return Candidates(corners(graph, center, size), layer(graph, "Mul", classes, objectness))


def _cells(wh: Wh, strides: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Column and row [A,2], and stride [A,1], of every cell of all strides."""
    grids = [cell_grid(-(-wh[0] // stride), -(-wh[1] // stride)) for stride in strides]
    sizes = [np.full((len(grid), 1), stride, np.float32) for stride, grid in zip(strides, grids, strict=True)]
    return np.concatenate(grids), np.concatenate(sizes)


FAMILY = Family(
    name="yolox",
    expects="one output [N,A,5+C] with A the cells of strides 8, 16 and 32 (and 64)",
    head=Head,
    num_anchors=_num_anchors,
    recognise=_recognise,
    decode=_decode,
)
