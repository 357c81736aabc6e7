"""Detections after the network's own suppression, as rows that hold box, score and class.

No paper: what exporters put behind a detector. The parts are their own outputs or columns of one: boxes
[N,K,4], scores [N,K], classes [N,K]; boxes and scores [N,K,5] beside labels [N,K] (mmdeploy); rows [D,6] and
their count (PaddleDetection); rows [D,7] that begin with the number of the picture (YOLOv7 --end2end). Rows
that are padding, by their class or the count, have score 0 and class -1.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from detserve_builder.families.family import Candidates, Family
from detserve_builder.families.reading import class_of_number, expect_anchors
from detserve_builder.families.suppressed.rows import recognise
from detserve_builder.graph.layers import corners, float32, int64, layer, slice_last
from detserve_builder.preparation.batch import NotBatchable
from detserve_core.card import Card
from detserve_core.errors import CardError

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

_Number = Annotated[int, Field(ge=0)]


class Coding(str, Enum):
    """The four numbers of a box: corners, centre and size, corners with y first."""

    XYXY = "xyxy"
    CXCYWH = "cxcywh"
    YXYX = "yxyx"


class Units(str, Enum):
    """Network pixels, or shares of the network's width and height."""

    PIXELS = "pixels"
    NORMALISED = "normalised"


class Part(BaseModel):
    """An output, and its first column that counts where it holds more than this."""

    model_config = ConfigDict(extra="forbid")
    output: str
    column: _Number | None = None


class Head(BaseModel):
    """Where the parts of a row are.

    ``rows`` is K, or None where there are as many rows as objects. ``count`` names the output that says how
    many rows count. ``label_numbers`` is the network's number of each label, 0, 1, 2 … if left out; rows of
    other numbers are dropped.
    """

    model_config = ConfigDict(extra="forbid")
    rows: Annotated[int, Field(gt=0)] | None = None
    boxes: Part
    scores: Part
    classes: Part
    count: str | None = None
    coding: Coding = Coding.XYXY
    units: Units = Units.PIXELS
    label_numbers: Annotated[list[_Number], Field(min_length=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _parts_are_said(cls, fields: dict[str, object]) -> dict[str, object]:
        missing = [part for part in ("boxes", "scores", "classes") if part not in fields]
        if missing:
            raise ValueError(
                "the network's rows on pictures fit no order of columns that is known; say "
                f'{", ".join(missing)} as {{"output": NAME, "column": FIRST COLUMN}}'
            )
        return fields


def _num_anchors(card: Card) -> int:
    return Head.model_validate(card.head).rows or card.candidates


def _decode(graph: gs.Graph, card: Card) -> Candidates:
    head = Head.model_validate(card.head)
    numbers = _label_numbers(head, card)
    by_name = {output.name: output for output in graph.outputs}
    boxes_output = _output(by_name, "boxes", head.boxes.output)
    if len(boxes_output.shape) == 2 and not isinstance(graph.inputs[0].shape[0], int):
        raise NotBatchable(f"this output lists the detections of one picture: {boxes_output.name}")
    if head.rows is not None:
        rows = boxes_output.shape[-2]
        expect_anchors("head.rows", str(head.rows), head.rows, boxes_output, rows)
    boxes = _part(graph, by_name, "boxes", head.boxes, 4)
    scores = _part(graph, by_name, "scores", head.scores, 1)
    classes = layer(graph, "Cast", _part(graph, by_name, "classes", head.classes, 1), to=7)
    classes, counts = class_of_number(graph, classes, numbers)
    if head.count is not None:
        counts = layer(
            graph, "And", counts, _within_count(graph, _output(by_name, "count", head.count), scores)
        )
    classes = layer(graph, "Where", counts, classes, int64(-1))
    scores = layer(graph, "Where", counts, scores, float32([0.0]))
    boxes = _corners(graph, card, head, boxes)
    if head.rows is not None:
        return Candidates(boxes, scores, classes)
    return _padded(graph, Candidates(boxes, scores, classes), card.candidates)


def _label_numbers(head: Head, card: Card) -> list[int]:
    if head.label_numbers is None:
        return list(range(len(card.labels)))
    if len(head.label_numbers) != len(card.labels):
        raise CardError(
            f"card: labels: got {len(card.labels)}, but head.label_numbers lists {len(head.label_numbers)}; "
            "each label needs the network's number for it"
        )
    if len(set(head.label_numbers)) != len(head.label_numbers):
        raise CardError("card: head.label_numbers: a number is listed twice")
    return head.label_numbers


def _output(by_name: dict[str, gs.Tensor], field: str, name: str) -> gs.Tensor:
    if name not in by_name:
        raise CardError(f"card: head.{field}: got {name!r}, but the graph's outputs are {', '.join(by_name)}")
    return by_name[name]


def _part(graph: gs.Graph, by_name: dict[str, gs.Tensor], field: str, part: Part, width: int) -> gs.Tensor:
    """[N,K,4] for boxes, [N,K] for the others; rows of one picture get the batch dimension."""
    tensor = _output(by_name, field, part.output)
    rank = len(tensor.shape)
    columns = tensor.shape[-1]
    if part.column is not None:
        if isinstance(columns, int) and part.column + width > columns:
            raise CardError(
                f"card: head.{field}.column: got {part.column}, but {tensor.name} has {columns} columns and "
                f"{field} take {width}"
            )
        tensor = slice_last(graph, tensor, part.column, part.column + width)
    if width == 1 and (part.column is not None or (columns == 1 and rank == 3)):
        tensor, rank = layer(graph, "Squeeze", tensor, int64(-1)), rank - 1
    expected = 3 if width == 4 else 2
    if rank == expected - 1:
        return layer(graph, "Unsqueeze", tensor, int64(0))
    if rank != expected:
        raise CardError(f"card: head.{field}: the graph's output {part.output} has {rank} dimensions")
    return tensor


def _within_count(graph: gs.Graph, count: gs.Tensor, scores: gs.Tensor) -> gs.Tensor:
    """Which rows of ``scores`` [N,K] come before the picture's count, bool [N,K]."""
    count = layer(graph, "Reshape", layer(graph, "Cast", count, to=7), int64(-1, 1))
    rows = layer(graph, "Squeeze", layer(graph, "Shape", scores, start=1, end=2), int64(0))
    zero, one = np.array(0), np.array(1)
    return layer(graph, "Less", layer(graph, "Range", zero, rows, one), count)


def _corners(graph: gs.Graph, card: Card, head: Head, boxes: gs.Tensor) -> gs.Tensor:
    """Any coding to x1,y1,x2,y2 in network pixels."""
    if head.coding is Coding.YXYX:
        boxes = layer(graph, "Gather", boxes, int64(1, 0, 3, 2), axis=2)
    if head.units is Units.NORMALISED:
        boxes = layer(graph, "Mul", boxes, float32([*card.input_wh, *card.input_wh]))
    if head.coding is Coding.CXCYWH:
        return corners(graph, slice_last(graph, boxes, 0, 2), slice_last(graph, boxes, 2, 4))
    return boxes


def _padded(graph: gs.Graph, found: Candidates, rows: int) -> Candidates:
    """Any number of rows of one picture, and ``rows`` of padding behind them."""
    boxes = layer(graph, "Concat", found.boxes, np.zeros((1, rows, 4), np.float32), axis=1)
    scores = layer(graph, "Concat", found.scores, np.zeros((1, rows), np.float32), axis=1)
    classes = layer(graph, "Concat", found.classes, np.full((1, rows), -1, np.int64), axis=1)
    return Candidates(boxes, scores, classes)


FAMILY = Family(
    name="suppressed",
    expects="rows of box, score and class behind the network's own suppression",
    head=Head,
    num_anchors=_num_anchors,
    recognise=recognise,
    decode=_decode,
)
