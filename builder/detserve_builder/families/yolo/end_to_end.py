"""End-to-end YOLO: YOLOv10 (Wang et al. 2024, arXiv:2405.14458), YOLO26; one box an object, no suppression.

One output [N,R,6]: x1, y1, x2, y2 in network pixels, score, class; Ultralytics' ``nms=True`` gives that too.
Mask coefficients or key points may lie behind, and prototypes [N,M,h,w] beside. Ultralytics' RT-DETR has the
same columns with cx, cy, w, h as shares of the input; up to 2025 it gave [N,R,4+C], all classes' scores.
DeepStream's exporters (marcoslucianops/DeepStream-Yolo) give six columns for every anchor: those are
suppressed.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

from detserve_builder.checkpoint import Checkpoint, TensorInfo
from detserve_builder.errors import BuildError
from detserve_builder.families.columns import Column, columns_of
from detserve_builder.families.family import Candidates, Draft, Family
from detserve_builder.families.probing import gives_class_numbers, probe_outputs
from detserve_builder.families.reading import (
    expect_anchors,
    expect_classes,
    image_wh,
    last_top_k,
    num_cells,
    num_classes_of_arg_max,
    num_classes_of_top_k,
    ops,
    probe,
)
from detserve_builder.families.yolo import ultralytics
from detserve_builder.graph.layers import corners, float32, int64, layer, slice_last
from detserve_core.card import Card
from detserve_core.errors import CardError

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

_ANCHORS_PER_CELL = (1, 3)  # [N,A,6] is also YOLOX and YOLOv5 with one class
_NOT_SHARES = 2.0  # a share of the input that is greater is none
_OTHER_BOXES = "centre and size in pixels, which a card of the family generic can say"


class BoxCoding(str, Enum):
    """What the first four columns are."""

    XYXY_PX = "xyxy_px"
    CXCYWH_SHARE = "cxcywh_share"


class Head(BaseModel):
    """``detections`` is R, the rows of the output.

    ``columns_behind`` counts the columns behind the class: mask coefficients or key points. With
    ``class_scores`` the columns behind the box are the scores of all classes instead.
    """

    model_config = ConfigDict(extra="forbid")
    detections: Annotated[int, Field(gt=0)]
    boxes: BoxCoding = BoxCoding.XYXY_PX
    columns_behind: Annotated[int, Field(ge=0)] = 0
    class_scores: bool = False


def _num_anchors(card: Card) -> int:
    return Head.model_validate(card.head).detections


def _recognise(checkpoint: Checkpoint) -> Draft | None:
    wh = image_wh(checkpoint)
    if wh is None or len(checkpoint.inputs) != 1:
        return None
    ultralytics.refuse_other_tasks(checkpoint)
    rows = [output for output in checkpoint.outputs if len(output.shape) == 3]
    prototypes = [output for output in checkpoint.outputs if len(output.shape) == 4]
    if len(rows) != 1 or len(rows) + len(prototypes) != len(checkpoint.outputs) or len(prototypes) > 1:
        return None
    output, columns = rows[0], columns_of(checkpoint, rows[0], 2)
    fields = output.shape[2]
    if not isinstance(fields, int) or fields <= 4:
        return None
    detections = output.shape[1] if isinstance(output.shape[1], int) else last_top_k(checkpoint)
    detections = detections or _rows_of_every_picture(checkpoint, output)
    every_anchor = detections in [per_cell * num_cells(wh, (8, 16, 32)) for per_cell in _ANCHORS_PER_CELL]
    if _gives_class_scores(checkpoint, columns) and not prototypes and not every_anchor:
        head: dict[str, object] = {"boxes": BoxCoding.CXCYWH_SHARE.value, "class_scores": True}
        return _draft(checkpoint, wh, head, detections, fields - 4)
    behind = _columns_behind(checkpoint, output, prototypes)
    if behind is None or (every_anchor and not gives_class_numbers(checkpoint, output, columns)):
        return None
    head = {"boxes": _coding(checkpoint, output, columns).value}
    if behind:
        head["columns_behind"] = behind
    num_classes = num_classes_of_arg_max(checkpoint) if every_anchor else num_classes_of_top_k(checkpoint)
    return _draft(checkpoint, wh, head, detections, num_classes, suppressed=not every_anchor)


def _gives_class_scores(checkpoint: Checkpoint, columns: Sequence[Column]) -> bool:
    """Whether boxes and scores are two sigmoids of a transformer that selects its queries."""
    parts = [column.tensor for column in columns[:4]], [column.tensor for column in columns[4:]]
    transformer = ultralytics.is_rtdetr(checkpoint) or bool({"GridSample", "TopK"} & ops(checkpoint))
    two = len(parts[1]) > 0 and [len(set(part)) for part in parts] == [1, 1] and parts[0][0] != parts[1][0]
    return transformer and two and all(column.is_sigmoid for column in columns)


def _columns_behind(
    checkpoint: Checkpoint, output: TensorInfo, prototypes: Sequence[TensorInfo]
) -> int | None:
    """Columns behind box, score and class; None where that is not what the columns are."""
    fields = output.shape[2]
    if not isinstance(fields, int) or fields < 6:
        return None
    behind = fields - 6
    said = ultralytics.said_behind(checkpoint, prototypes)
    if behind == said or (behind == 0 and not prototypes):
        return behind
    ranked = {"TopK", "NonMaxSuppression"} & ops(checkpoint)
    if said is not None or not ranked:
        return None
    if behind == 1:
        raise BuildError(ultralytics.angle_behind(checkpoint))
    return behind if behind % 3 == 0 or behind % 2 == 0 else None


def _coding(checkpoint: Checkpoint, output: TensorInfo, columns: Sequence[Column]) -> BoxCoding:
    """What the boxes are: shares end in a sigmoid; where a transformer's do not, their values tell."""
    shares = all(column.is_sigmoid for column in columns[:4]) or ultralytics.is_rtdetr(checkpoint)
    if not shares and "GridSample" in ops(checkpoint):
        values = probe_outputs(checkpoint).get(output.name)
        shares = values is None or bool(abs(values[..., :4]).max() <= _NOT_SHARES)
    return BoxCoding.CXCYWH_SHARE if shares else BoxCoding.XYXY_PX


def _draft(
    checkpoint: Checkpoint,
    wh: tuple[int, int],
    head: dict[str, object],
    detections: int | None,
    num_classes: int | None,
    *,
    suppressed: bool = True,
) -> Draft:
    stretched = head["boxes"] == BoxCoding.CXCYWH_SHARE.value or "GridSample" in ops(checkpoint)
    return Draft(
        card_fields={
            "input_wh": list(wh),
            "preprocess": ultralytics.STRETCHED if stretched else ultralytics.PREPROCESS,
            "head": head if detections is None else {**head, "detections": detections},
            **({"thresholds": {"iou": 1.0}} if suppressed else {}),
        },
        num_classes=num_classes,
        guesses={} if ultralytics.is_export(checkpoint) or stretched else {"head.boxes": _OTHER_BOXES},
        from_metadata=frozenset({"preprocess"} if ultralytics.is_export(checkpoint) else ()),
    )


def _rows_of_every_picture(checkpoint: Checkpoint, output: TensorInfo) -> int | None:
    """The rows of a network that pads what it found, where its shape does not say how many."""
    counts = {outputs[output.name].shape[1] for outputs in probe(checkpoint)}
    return counts.pop() or None if len(counts) == 1 else None


def _decode(graph: gs.Graph, card: Card) -> Candidates:
    head = Head.model_validate(card.head)
    rows = next(output for output in graph.outputs if len(output.shape) == 3)
    expect_anchors("head.detections", str(head.detections), head.detections, rows, rows.shape[1])
    if head.class_scores:
        expect_classes(card, rows, rows.shape[2] - 4)
        parts = [4, len(card.labels)]
    elif rows.shape[2] == 6 + head.columns_behind:
        parts = [4, 1, 1, head.columns_behind]
    else:
        raise CardError(
            f"card: head.columns_behind: {head.columns_behind} makes {6 + head.columns_behind} columns with "
            f"box, score and class, but the graph's output {rows.name} has {rows.shape[2]}"
        )
    parts = [size for size in parts if size]
    # one Split: OpenVINO 2026.4 makes a GatherElements of all columns from neighbouring Slices
    boxes, *rest = layer(graph, "Split", rows, int64(*parts), outputs=len(parts), axis=2)
    if head.boxes is BoxCoding.CXCYWH_SHARE:
        boxes = layer(graph, "Mul", boxes, float32([*card.input_wh, *card.input_wh]))
        boxes = corners(graph, slice_last(graph, boxes, 0, 2), slice_last(graph, boxes, 2, 4))
    if head.class_scores:
        return Candidates(boxes, rest[0])
    scores, classes = (layer(graph, "Squeeze", column, int64(2)) for column in rest[:2])
    return Candidates(boxes, scores, layer(graph, "Cast", classes, to=7))


FAMILY = Family(
    name="end_to_end",
    expects="an output [N,R,6] of x1,y1,x2,y2,score,class, or [N,R,4+C] of RT-DETR",
    head=Head,
    num_anchors=_num_anchors,
    recognise=_recognise,
    decode=_decode,
)
