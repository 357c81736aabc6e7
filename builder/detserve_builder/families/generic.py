"""A detector that the card alone describes, for heads that no other family reads.

Used only where the card says ``"family": "generic"``. Boxes [N,A,4] and scores [N,A,C] are outputs, or
columns of outputs; nothing is decoded but the box coding, the units, the activation, an objectness column
(it multiplies the scores) and a background column (it is dropped).
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

from detserve_builder.checkpoint import Checkpoint
from detserve_builder.families.family import Candidates, Draft, Family
from detserve_builder.families.reading import expect_anchors, expect_classes, image_wh
from detserve_builder.graph import corners, float32, int64, layer, slice_last
from detserve_client.card import Card
from detserve_client.errors import CardError

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


class Coding(str, Enum):
    """The four numbers of a box: corners, corner and size, centre and size, corners with y first."""

    XYXY = "xyxy"
    XYWH = "xywh"
    CXCYWH = "cxcywh"
    YXYX = "yxyx"


class Units(str, Enum):
    """Network pixels, or shares of the network's width and height."""

    PIXELS = "pixels"
    NORMALISED = "normalised"


class Activation(str, Enum):
    """What turns the scores of the graph into 0..1; softmax runs over the score columns."""

    NONE = "none"
    SIGMOID = "sigmoid"
    SOFTMAX = "softmax"


_Column = Annotated[int, Field(ge=0)]


class Head(BaseModel):
    """Where boxes and scores are and what they mean.

    ``boxes`` and ``scores`` name outputs, the same one or two. Columns are counted along the last axis, or
    along axis 1 where ``channels_first``; a range is [start, end) and None means all. ``objectness_column``
    counts in the scores' output and is sigmoid unless the activation is none; ``background_column`` counts
    in the score columns.
    """

    model_config = ConfigDict(extra="forbid")
    anchors: Annotated[int, Field(gt=0)]
    boxes: str
    scores: str
    boxes_columns: tuple[_Column, _Column] | None = None
    scores_columns: tuple[_Column, _Column] | None = None
    channels_first: bool = False
    box_coding: Coding
    units: Units
    activation: Activation
    objectness_column: _Column | None = None
    background_column: _Column | None = None


def _num_anchors(card: Card) -> int:
    return Head.model_validate(card.head).anchors


def _recognise(checkpoint: Checkpoint) -> Draft | None:
    wh = image_wh(checkpoint)
    if wh is None or len(checkpoint.inputs) != 1:
        return None
    return Draft(card_fields={"input_wh": list(wh)}, num_classes=None)


def _decode(graph: gs.Graph, card: Card) -> Candidates:
    head = Head.model_validate(card.head)
    box_rows, num_box_columns = _rows(graph, head, "boxes", head.boxes)
    score_rows, num_score_columns = _rows(graph, head, "scores", head.scores)
    start, end = _range("boxes_columns", head.boxes_columns, num_box_columns)
    if end - start != 4:
        raise CardError(f"card: head.boxes_columns: {start} to {end} are {end - start} columns, a box has 4")
    boxes = _corners(graph, card, head, slice_last(graph, box_rows, start, end))
    start, end = _range("scores_columns", head.scores_columns, num_score_columns)
    scores = _activate(graph, head.activation, slice_last(graph, score_rows, start, end))
    columns = [column for column in range(end - start) if column != head.background_column]
    expect_classes(card, _output(graph, "scores", head.scores), len(columns))
    if len(columns) != end - start:
        scores = layer(graph, "Gather", scores, int64(*columns), axis=2)
    if head.objectness_column is not None:
        column = head.objectness_column
        _range("objectness_column", (column, column + 1), num_score_columns)
        objectness = slice_last(graph, score_rows, column, column + 1)
        if head.activation is not Activation.NONE:
            objectness = layer(graph, "Sigmoid", objectness)
        scores = layer(graph, "Mul", scores, objectness)
    return Candidates(boxes, scores)


def _output(graph: gs.Graph, field: str, name: str) -> gs.Tensor:
    for output in graph.outputs:
        if output.name == name:
            return output
    found = ", ".join(output.name for output in graph.outputs)
    raise CardError(f"card: head.{field}: got {name!r}, but the graph's outputs are {found}")


def _rows(graph: gs.Graph, head: Head, field: str, name: str) -> tuple[gs.Tensor, int]:
    """The named output as [N,A,columns], and the number of its columns."""
    output = _output(graph, field, name)
    if len(output.shape) != 3:
        raise CardError(f"card: head.{field}: {name} is {output.shape}, expected three dimensions")
    anchors, columns = (output.shape[2], output.shape[1]) if head.channels_first else output.shape[1:]
    expect_anchors("head.anchors", str(head.anchors), head.anchors, output, anchors)
    if not isinstance(columns, int):
        raise CardError(f"card: head.{field}: {name} is {output.shape}, its columns are not fixed")
    return layer(graph, "Transpose", output, perm=[0, 2, 1]) if head.channels_first else output, columns


def _range(field: str, said: tuple[int, int] | None, columns: int) -> tuple[int, int]:
    start, end = said or (0, columns)
    if not start < end <= columns:
        raise CardError(f"card: head.{field}: got {start} to {end}, but the output has {columns} columns")
    return start, end


def _activate(graph: gs.Graph, activation: Activation, scores: gs.Tensor) -> gs.Tensor:
    if activation is Activation.SOFTMAX:
        return layer(graph, "Softmax", scores, axis=2)
    return layer(graph, "Sigmoid", scores) if activation is Activation.SIGMOID else scores


def _corners(graph: gs.Graph, card: Card, head: Head, boxes: gs.Tensor) -> gs.Tensor:
    """Any coding to x1,y1,x2,y2 in network pixels."""
    if head.box_coding is Coding.YXYX:
        boxes = layer(graph, "Gather", boxes, int64(1, 0, 3, 2), axis=2)
    if head.units is Units.NORMALISED:
        boxes = layer(graph, "Mul", boxes, float32([*card.input_wh, *card.input_wh]))
    first, second = slice_last(graph, boxes, 0, 2), slice_last(graph, boxes, 2, 4)
    if head.box_coding is Coding.CXCYWH:
        return corners(graph, first, second)
    if head.box_coding is Coding.XYWH:
        return layer(graph, "Concat", first, layer(graph, "Add", first, second), axis=2)
    return boxes


FAMILY = Family(
    name="generic",
    expects="boxes and scores in the outputs that the card's head names",
    head=Head,
    num_anchors=_num_anchors,
    recognise=_recognise,
    decode=_decode,
    only_when_named=True,
)
