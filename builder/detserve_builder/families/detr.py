"""DETR (Carion et al. 2020, arXiv:2005.12872) and its kin: a set of boxes, one a query, no suppression.

Two outputs: class logits [N,Q,C'] and boxes [N,Q,4], cx, cy, w, h as shares of the input. DETR's scores are a
softmax with "no object" in the last column (C' = C+1); Deformable DETR (arXiv:2010.04159), RT-DETR
(arXiv:2304.08069) and most later ones take a sigmoid of C' = C columns.

RT-DETR's, D-FINE's and DEIM's own exports do that inside and give labels [N,Q], boxes [N,Q,4] and scores
[N,Q], with boxes x1, y1, x2, y2 in pixels of the second input, orig_target_sizes: that is fed the input size.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

from detserve_builder.checkpoint import Checkpoint, TensorInfo
from detserve_builder.coco_labels import COCO_CATEGORY_IDS
from detserve_builder.families.family import Candidates, Draft, Family
from detserve_builder.families.reading import (
    expect_anchors,
    expect_classes,
    image_wh,
    last_op,
    last_top_k,
    num_classes_of_top_k,
    ops,
)
from detserve_builder.families.ssd_trace import trace
from detserve_builder.graph import corners, float32, int64, layer, slice_last
from detserve_client.card import Card
from detserve_client.errors import CardError

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

_SIZES = "orig_target_sizes"
_DECODED = ("labels", "boxes", "scores")
_DEFORMABLE = {"GridSample", "TopK"}  # deformable attention, query selection: they all score with sigmoid


class Scores(str, Enum):
    """How logits become scores."""

    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"


class Head(BaseModel):
    """``queries`` is Q. ``scores`` says how logits become scores; softmax has "no object" last.

    ``class_columns`` is the column of each label, where not every column has one: COCO's category ids have
    gaps.
    """

    model_config = ConfigDict(extra="forbid")
    queries: Annotated[int, Field(gt=0)]
    scores: Scores
    class_columns: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None


def _num_anchors(card: Card) -> int:
    return Head.model_validate(card.head).queries


def _recognise(checkpoint: Checkpoint) -> Draft | None:
    wh = image_wh(checkpoint)
    if wh is None:
        return None
    if _SIZES in checkpoint.fed:
        return _recognise_decoded(checkpoint, wh)
    pair = _logits_and_boxes(checkpoint.outputs)
    if len(checkpoint.inputs) != 1 or pair is None:
        return None
    logits, boxes = pair
    found = ops(checkpoint)
    deformable = bool(_DEFORMABLE & found)
    named = "logits" in logits.name
    if not named and "GridSample" not in found and last_op(checkpoint, boxes) != "Sigmoid":
        return None
    if trace(checkpoint.model, boxes.name).layers == {"Conv"}:
        return None  # an SSD's; a transformer's boxes come from matrix products
    columns, queries = logits.shape[2], boxes.shape[1]
    head: dict[str, object] = {"queries": queries} if isinstance(queries, int) else {}
    if deformable:
        head["scores"] = "sigmoid"
    elif columns == 92:  # DETR's own: COCO's 91 category ids and "no object"
        head["scores"] = "softmax"
    num_classes = columns if isinstance(columns, int) else None
    if head.get("scores") == "softmax" and num_classes is not None:
        num_classes -= 1
    if num_classes == 91:
        head["class_columns"] = list(COCO_CATEGORY_IDS)
        num_classes = len(COCO_CATEGORY_IDS)
    return _draft(wh, head, num_classes, imagenet=not deformable)


def _recognise_decoded(checkpoint: Checkpoint, wh: tuple[int, int]) -> Draft | None:
    outputs = {output.name: output.shape for output in checkpoint.outputs}
    if not all(name in outputs for name in _DECODED):
        return None
    shape = outputs["boxes"]
    fixed = shape[1] if len(shape) == 3 else None
    queries = fixed if isinstance(fixed, int) else last_top_k(checkpoint)
    head: dict[str, object] = {"scores": "sigmoid"}
    if queries is not None:
        head["queries"] = queries
    return _draft(wh, head, num_classes_of_top_k(checkpoint), imagenet=False)


def _logits_and_boxes(outputs: tuple[TensorInfo, ...]) -> tuple[TensorInfo, TensorInfo] | None:
    """The pair [N,Q,C'] and [N,Q,4]; exports may give hidden states beside them."""
    rows = [output for output in outputs if len(output.shape) == 3]
    fours = [output for output in rows if output.shape[2] == 4]
    if not fours:
        return None
    # With four columns of logits the names decide, or the order, logits first.
    boxes = next((output for output in fours if "box" in output.name or "dets" in output.name), fours[-1])
    beside = [output for output in rows if output is not boxes and output.shape[1] == boxes.shape[1]]
    named = [output for output in beside if "logits" in output.name]
    logits = next(iter((*named, *beside)), None)
    return (logits, boxes) if logits is not None else None


def _draft(wh: tuple[int, int], head: dict[str, object], num_classes: int | None, *, imagenet: bool) -> Draft:
    preprocess: dict[str, object] = {"resize": "stretch", "color": "rgb", "scale": 1 / 255}
    if imagenet:
        preprocess |= {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    return Draft(
        card_fields={
            "input_wh": list(wh),
            "preprocess": preprocess,
            "head": head,
            "thresholds": {"iou": 1.0},
        },
        num_classes=num_classes,
    )


def _decode(graph: gs.Graph, card: Card) -> Candidates:
    head = Head.model_validate(card.head)
    by_name = {output.name: output for output in graph.outputs}
    if all(name in by_name for name in _DECODED):
        return _decoded(graph, head, by_name)
    described = tuple(TensorInfo(out.name, "", tuple(out.shape)) for out in graph.outputs)
    logits, boxes = (by_name[info.name] for info in _logits_and_boxes(described) or ())
    expect_anchors("head.queries", str(head.queries), head.queries, boxes, boxes.shape[1])
    if head.scores is Scores.SOFTMAX:
        scores = layer(graph, "Softmax", logits, axis=2)
    else:
        scores = layer(graph, "Sigmoid", logits)
    scores = layer(graph, "Gather", scores, int64(*_class_columns(card, head, logits)), axis=2)
    in_pixels = layer(graph, "Mul", boxes, float32([*card.input_wh, *card.input_wh]))
    return Candidates(
        corners(graph, slice_last(graph, in_pixels, 0, 2), slice_last(graph, in_pixels, 2, 4)), scores
    )


def _class_columns(card: Card, head: Head, logits: gs.Tensor) -> list[int]:
    """The column of each label, without "no object"."""
    num_classes = logits.shape[2] - (1 if head.scores is Scores.SOFTMAX else 0)
    if head.class_columns is None:
        expect_classes(card, logits, num_classes)
        return list(range(num_classes))
    if len(head.class_columns) != len(card.labels):
        raise CardError(
            f"card: labels: got {len(card.labels)}, but head.class_columns lists {len(head.class_columns)} "
            "columns; each label needs its own"
        )
    if max(head.class_columns) >= num_classes:
        raise CardError(
            f"card: head.class_columns: got {max(head.class_columns)}, but the graph's output {logits.name} "
            f"has classes in columns 0 to {num_classes - 1}"
        )
    return head.class_columns


def _decoded(graph: gs.Graph, head: Head, by_name: dict[str, gs.Tensor]) -> Candidates:
    """Labels, boxes and scores as they are, in pixels of the network's own size."""
    labels, boxes, scores = (by_name[name] for name in _DECODED)
    expect_anchors("head.queries", str(head.queries), head.queries, boxes, boxes.shape[1])
    return Candidates(boxes, scores, layer(graph, "Cast", labels, to=7))


FAMILY = Family(
    name="detr",
    expects="logits [N,Q,C] and boxes [N,Q,4], or labels, boxes and scores with the input orig_target_sizes",
    head=Head,
    num_anchors=_num_anchors,
    recognise=_recognise,
    decode=_decode,
)
