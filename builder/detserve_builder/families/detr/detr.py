"""DETR (Carion et al. 2020, arXiv:2005.12872) and its kin: a set of boxes, one a query, no suppression.

Two outputs: class logits [N,Q,C'] and boxes [N,Q,4], cx, cy, w, h as shares of the input. DETR's scores are a
softmax with "no object" in the last column (C' = C+1), and a query has one class. Deformable DETR
(arXiv:2010.04159), RT-DETR (arXiv:2304.08069), RF-DETR (arXiv:2511.09554) and most later ones take a sigmoid
of each column and rank all pairs of query and class, so that a query can be found as several classes.

RT-DETR's, D-FINE's (arXiv:2410.13842) and DEIM's (arXiv:2412.04234) own exports do that inside and give
labels [N,K], boxes [N,K,4] and scores [N,K], with boxes x1, y1, x2, y2 in pixels of the second input,
orig_target_sizes: that is fed the input size.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

from detserve_builder.checkpoint import TensorInfo
from detserve_builder.families.detr.recognition import DECODED, logits_and_boxes, recognise
from detserve_builder.families.family import Candidates, Family
from detserve_builder.families.reading import expect_anchors, expect_classes
from detserve_builder.graph.layers import corners, float32, int64, layer, slice_last
from detserve_core.card import Card
from detserve_core.errors import CardError

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

_MOVES = {"Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}


class Scores(str, Enum):
    """How the class columns become scores."""

    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"
    DECODED = "decoded"


class Head(BaseModel):
    """``queries`` is Q, or K where the graph has ranked them. ``scores`` says how columns become scores.

    softmax: the last column is "no object", a query has one class. sigmoid: every pair of query and class
    counts. decoded: the graph gives scores, a query has one class. ``class_columns`` is the column of each
    label, where not every column has one: COCO's category ids have gaps.
    """

    model_config = ConfigDict(extra="forbid")
    queries: Annotated[int, Field(gt=0)]
    scores: Scores
    class_columns: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None


def _num_anchors(card: Card) -> int:
    head = Head.model_validate(card.head)
    return head.queries * (len(card.labels) if head.scores is Scores.SIGMOID else 1)


def _decode(graph: gs.Graph, card: Card) -> Candidates:
    head = Head.model_validate(card.head)
    by_name = {output.name: output for output in graph.outputs}
    if all(name in by_name for name in DECODED):
        return _decoded(graph, head, by_name)
    described = tuple(TensorInfo(out.name, "", tuple(out.shape)) for out in graph.outputs)
    columns, boxes = (by_name[info.name] for info in logits_and_boxes(described) or ())
    expect_anchors("head.queries", str(head.queries), head.queries, boxes, boxes.shape[1])
    chosen = _class_columns(card, head, columns)
    boxes = layer(graph, "Mul", boxes, float32([*card.input_wh, *card.input_wh]))
    boxes = corners(graph, slice_last(graph, boxes, 0, 2), slice_last(graph, boxes, 2, 4))
    done = _activation(columns) in ("Sigmoid", "Softmax") or head.scores is Scores.DECODED
    if head.scores is Scores.SOFTMAX and not done:
        columns = layer(graph, "Softmax", columns, axis=2)
    scores = layer(graph, "Gather", columns, int64(*chosen), axis=2)
    if head.scores is Scores.SIGMOID:
        return _best_pairs(graph, card, boxes, scores, done=done)
    return Candidates(boxes, scores)


def _best_pairs(
    graph: gs.Graph, card: Card, boxes: gs.Tensor, scores: gs.Tensor, *, done: bool
) -> Candidates:
    """The best of all pairs of query and class, as many as the card wants (Deformable DETR's postprocess).

    Logits are ranked, not their sigmoid, which is 1 for all that lie above 17.
    """
    num_classes = len(card.labels)
    flat = layer(graph, "Reshape", scores, int64(0, -1))
    best, pairs = layer(graph, "TopK", flat, int64(card.candidates), outputs=2, axis=1)
    queries = layer(graph, "Unsqueeze", layer(graph, "Div", pairs, int64(num_classes)), int64(2))
    spread = layer(graph, "Expand", queries, int64(1, 1, 4))
    return Candidates(
        boxes=layer(graph, "GatherElements", boxes, spread, axis=1),
        scores=best if done else layer(graph, "Sigmoid", best),
        classes=layer(graph, "Mod", pairs, int64(num_classes)),
    )


def _activation(columns: gs.Tensor) -> str:
    """The operator that gave ``columns`` their values."""
    node = columns.inputs[0] if columns.inputs else None
    while node is not None and node.op in _MOVES:
        node = node.inputs[0].inputs[0] if node.inputs[0].inputs else None
    return node.op if node is not None else ""


def _class_columns(card: Card, head: Head, columns: gs.Tensor) -> list[int]:
    """The column of each label, without "no object"."""
    num_classes = columns.shape[2] - (1 if head.scores is Scores.SOFTMAX else 0)
    if head.class_columns is None:
        expect_classes(card, columns, num_classes)
        return list(range(num_classes))
    if len(head.class_columns) != len(card.labels):
        raise CardError(
            f"card: labels: got {len(card.labels)}, but head.class_columns lists {len(head.class_columns)} "
            "columns; each label needs its own"
        )
    if max(head.class_columns) >= num_classes:
        raise CardError(
            f"card: head.class_columns: got {max(head.class_columns)}, but the graph's output {columns.name} "
            f"has classes in columns 0 to {num_classes - 1}"
        )
    return head.class_columns


def _decoded(graph: gs.Graph, head: Head, by_name: dict[str, gs.Tensor]) -> Candidates:
    """Labels, boxes and scores as they are, in pixels of the network's own size."""
    labels, boxes, scores = (by_name[name] for name in DECODED)
    if head.scores is not Scores.DECODED:
        raise CardError(
            f"card: head.scores: got {head.scores.value}, but the graph's output {scores.name} is ranked "
            "already; expected decoded"
        )
    expect_anchors("head.queries", str(head.queries), head.queries, boxes, boxes.shape[1])
    return Candidates(boxes, scores, layer(graph, "Cast", labels, to=7))


FAMILY = Family(
    name="detr",
    expects="logits [N,Q,C] and boxes [N,Q,4], or labels, boxes and scores with the input orig_target_sizes",
    head=Head,
    num_anchors=_num_anchors,
    recognise=recognise,
    decode=_decode,
)
